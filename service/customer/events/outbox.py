"""The events that a task holds: each waits, or is in one sent batch, until the stream has stored it."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.customer.events import event
from service.customer.events.event import FIRST, Event, size_bytes

MAX_EVENTS: Final = 100_000
MAX_BYTES: Final = 16 * 1024 * 1024


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
        self.id = secrets.token_hex(8)
        """Prefix of the ids of its events and batches, unique to this task."""
        self._next_event = FIRST
        self._max_events = max_events
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return self.unacknowledged + len(self.waiting)

    def add(
        self,
        subjects: Sequence[str],
        payloads: Sequence[str],
        context: Mapping[str, str] | None,
        ids: Sequence[str] = (),
    ) -> int:
        """Queue events while there is room. Return how many, the last ones, did not fit."""
        events = event.make(self.id, self._next_event, subjects, payloads, context, ids)
        size, room = size_bytes(events), self._max_events - len(self)
        while events and (len(events) > room or self.held_bytes + size > self._max_bytes):
            size -= size_bytes([events.pop()])
        self._next_event += len(events)
        self.held_bytes += size
        self.waiting.extend(events)
        return len(subjects) - len(events)

    def take(self, size: int, now_s: float) -> Batch:
        """Return a batch of the oldest waiting events; it counts as sent."""
        popleft = self.waiting.popleft
        batch = Batch(self.next_batch, [popleft() for _ in range(size)], now_s)
        self.next_batch += 1
        self.sent[batch.number] = batch
        self.unacknowledged += size
        return batch

    def stored(self, batch: Batch, count: int) -> int:
        """Remove a batch's first `count` events, and queue the others again. Return how many were queued."""
        done, rest = batch.events[:count], batch.events[count:]
        self.unacknowledged -= len(done)
        self.held_bytes -= size_bytes(done)
        batch.events = rest
        return self.take_back(batch)

    def take_back(self, batch: Batch) -> int:
        """Queue a batch's events again, before newer ones. Return how many were queued."""
        del self.sent[batch.number]
        events = batch.events
        self.unacknowledged -= len(events)
        older = []
        while events and self.waiting and self.waiting[0][0] < events[-1][0]:
            older.append(self.waiting.popleft())
        self.waiting.extendleft(sorted([*older, *events], reverse=True))
        return len(events)
