"""How long a JetStream source waits, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    confirm_s: float = 2.0
    """Maximum wait of an answer's attempt for a connection, and then for its confirmation."""
    gather_s: float = 0.001
    """A single deletion waits this long for others, if any are in flight, to leave in one write with them."""
    acknowledge_s: float = 0.05
    """Acknowledgements wait this long to leave in one write, in place of a write and a wake-up per batch."""
    look_s: float = 1.0
    """A consumer's state is read again at most this often; a remark waits this long for the new one."""
    linger_max_s: float = 1.0
    """Maximum wait of a pull for more messages after its first one."""
