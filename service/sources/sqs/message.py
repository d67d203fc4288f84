"""A message of an SQS queue, as it was received."""

from __future__ import annotations

from dataclasses import dataclass

from service.sources.source import Headers


@dataclass(frozen=True, slots=True, eq=False)
class QueueMessage:
    handle: str
    """SQS's receipt handle of this delivery."""
    id: str
    data: bytes
    headers: Headers
    """Its message attributes, by name."""
    times_received: int
    sent_ns: int
    size: int
    """Bytes that count against limits while the message is held."""
