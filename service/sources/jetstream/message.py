"""A message of a stream: as it arrives, and as it is handed out once it is known which consumer delivered it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.sources.jetstream.wire import Position, parse_headers, position
from service.sources.source import Headers

Arrival = tuple[bytes, str, bytes, bytes, Position]
"""Subject, handle, payload, header block, and the numbers in its handle."""


# Final, not frozen: mypy refuses every change. Messages come in bursts, and a frozen one takes six times as long to
# make (it sets each field through `object.__setattr__`), a named tuple six times as long to read.
@dataclass(slots=True, eq=False)
class StreamMessage:
    subject: Final[bytes]
    handle: Final[str]
    """The subject that acknowledges this delivery: ADR-15."""
    data: Final[bytes]
    block: Final[bytes]
    """Its headers, unparsed: parsed, tiny headers take fifty times as much memory."""
    times_received: Final[int]
    sequence: Final[int]
    """Sequence in its stream."""
    number: Final[int]
    """Number of this delivery at the consumer."""
    sent_ns: Final[int]
    """When it was stored, in ns since 1970."""
    size: Final[int]
    """Bytes that count against limits while the message is held."""
    consumer: Final[int]
    """The consumer that delivered it: its time of creation, in microseconds since 1970."""
    until_ms: Final[int]
    """End of its first visibility timeout, in ms since 1970."""

    @property
    def id(self) -> str:
        return str(self.sequence)

    @property
    def headers(self) -> Headers:
        return parse_headers(self.block)


def arrival(subject: bytes, reply: bytes, data: bytes, block: bytes) -> Arrival:
    """Parse what the server sent. Raises `ValueError` if `reply` acknowledges no delivery."""
    handle = reply.decode()
    return subject, handle, data, block, position(handle)


def delivered(arrivals: Sequence[Arrival], consumer: int, until_ms: int) -> list[StreamMessage]:
    """Return the messages of one pull: `consumer` delivered them, and they are invisible until `until_ms`."""
    return [
        StreamMessage(
            subject, handle, data, block, times_received, sequence, number, sent_ns,
            len(subject) + len(handle) + len(data) + len(block), consumer, until_ms,
        )
        for subject, handle, data, block, (times_received, sequence, number, sent_ns) in arrivals
    ]  # fmt: skip


def handles(arrivals: Sequence[Arrival]) -> list[str]:
    return [handle for _, handle, *_ in arrivals]
