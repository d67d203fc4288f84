"""The events that a task holds: each waits, or is in one batch that was sent, until the stream has stored it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.runtime.nats_client import header_lines

MAX_EVENTS: Final = 100_000
MAX_BYTES: Final = 16 * 1024 * 1024
_OVERHEAD_BYTES: Final = 64


@dataclass(slots=True)
class Event:
    number: int
    subject: str
    payload: bytes
    context: bytes
    """Header lines that carry its request's span on, each with its CRLF."""

    @property
    def size_bytes(self) -> int:
        return len(self.subject) + len(self.payload) + len(self.context) + _OVERHEAD_BYTES


@dataclass(slots=True)
class Batch:
    number: int
    events: Sequence[Event]
    sent_s: float


class Outbox:
    """Bounded by number and by bytes. Batches are numbered in the order in which they are sent."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.waiting: deque[Event] = deque()
        """Oldest first."""
        self.sent: dict[int, Batch] = {}
        """By number, oldest first."""
        self.unacknowledged = 0
        """Events in `sent`."""
        self.held_bytes = 0
        self.next_batch = 0
        self._next_event = 0
        self._max_events = max_events
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return self.unacknowledged + len(self.waiting)

    def add(self, subject: str, payload: bytes, context: Mapping[str, str] | None) -> bool:
        """Let an event wait. False when there is no room for it."""
        event = Event(self._next_event, subject, payload, header_lines(context) if context else b"")
        size_bytes = event.size_bytes
        if len(self) >= self._max_events or self.held_bytes + size_bytes > self._max_bytes:
            return False
        self._next_event += 1
        self.held_bytes += size_bytes
        self.waiting.append(event)
        return True

    def take(self, count: int, now_s: float) -> Batch:
        """Make a batch of the oldest waiting events; it counts as sent."""
        batch = Batch(self.next_batch, [self.waiting.popleft() for _ in range(count)], now_s)
        self.next_batch += 1
        self.sent[batch.number] = batch
        self.unacknowledged += count
        return batch

    def stored(self, batch: Batch, count: int) -> int:
        """Let go of a batch's first `count` events, and let the others wait again. How many these are."""
        done, rest = batch.events[:count], batch.events[count:]
        self.unacknowledged -= len(done)
        self.held_bytes -= sum(event.size_bytes for event in done)
        batch.events = rest
        return self.take_back(batch)

    def take_back(self, batch: Batch) -> int:
        """Let a batch's events wait again, before those that are younger. How many they are."""
        del self.sent[batch.number]
        events = batch.events
        self.unacknowledged -= len(events)
        older = []
        while events and self.waiting and self.waiting[0].number < events[-1].number:
            older.append(self.waiting.popleft())
        self.waiting.extendleft(sorted([*older, *events], key=lambda event: -event.number))
        return len(events)
