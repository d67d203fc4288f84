"""From a source's events to rows: batches in flight side by side, and an acknowledgement after each write alone.

An event is held from its delivery until it is acknowledged or given back. What is held is bounded in messages and in
bytes, and with it what is asked of the source. The source is told in time that what is held is still being worked on,
however long DynamoDB takes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from service.archive.dead_letters import DeadLetters
from service.archive.event import Event, encode, rfc3339
from service.archive.source import Source
from service.dynamodb.writer import MAX_BYTES, MAX_ITEMS, Item, Key, Writer
from service.runtime.cancel import cancel
from service.runtime.logs import Repeated

log: Final = structlog.get_logger("service.archive")
_unwritten: Final = Repeated(log, "rows are not written yet")
_dead: Final = Repeated(log, "a message became a dead letter")
_kept: Final = Repeated(log, "the dead-letter stream does not take a message")

BATCHES: Final = 16
"""In flight at most: with a DynamoDB that takes 8 ms a call they carry 30,000 rows/s."""
BATCHES_AT_START: Final = 4
GROW: Final = 0.25
SHRINK_EVERY_S: Final = 1.0
MAX_HELD: Final = 2_500
MAX_HELD_BYTES: Final = 12 * 1024 * 1024
DEAD_RETRY_S: Final = 60.0
"""After which a message that the dead-letter stream did not take is delivered again."""


@dataclass(slots=True)
class ArchiveStats:
    rows: int = 0
    batches: int = 0
    dead: int = 0
    dead_refused: int = 0
    """Messages that the dead-letter stream did not take, each time."""
    processing_ns: int = 0
    last_error: str = ""


class Archiver:
    """Takes events, writes rows, acknowledges. `start` first, `drain` before the connections are closed."""

    def __init__(
        self, source: Source, writer: Writer, dead_letters: DeadLetters, *, host: str = "", retention_s: int = 0
    ) -> None:
        self.stats = ArchiveStats()
        self.host = host
        self.stalled = ""
        """Why rows are not written; empty while they are."""
        self.held_bytes = 0
        self._source = source
        self._writer = writer
        self._dead_letters = dead_letters
        self._retention_s = retention_s
        self._held: dict[Event, float] = {}
        """Each event that is held, and when it was last delivered or extended."""
        self._waiting: deque[Event] = deque()
        self._batches: set[asyncio.Task[None]] = set()
        self._limit = float(BATCHES_AT_START)
        """Batches in flight: more while calls succeed, half when one fails. A call that timed out was work for nothing,
        and asking a busy DynamoDB for more of it makes it busier."""
        self._shrunk_s = 0.0
        self._forming = False
        self._draining = False
        self._extending: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def held(self) -> int:
        return len(self._held)

    def oldest_s(self) -> float:
        """The age of the oldest event that is held; 0 without one."""
        return max(0.0, time.time() - min((event.time_s for event in self._held), default=time.time()))

    async def start(self) -> None:
        await self._source.start(self)
        self._extending = asyncio.create_task(self._extend(), name="extend")
        self._source.more()

    def room(self) -> tuple[int, int]:
        return MAX_HELD - len(self._held), MAX_HELD_BYTES - self.held_bytes

    def is_empty(self) -> bool:
        return not self._held

    def take(self, event: Event) -> None:
        self._held[event] = self._loop.time()
        self.held_bytes += event.size
        self._waiting.append(event)
        if not self._forming:  # once for all that this turn of the loop brings
            self._forming = True
            self._loop.call_soon(self._form)

    async def drain(self, timeout_s: float) -> int:
        """Finish what is being written and give back the rest; returns how many were given back."""
        deadline = self._loop.time() + timeout_s
        self._draining = True
        await self._source.take_no_more()
        given_back = self._release_waiting()
        if self._batches:
            await asyncio.wait(self._batches, timeout=max(0.0, deadline - self._loop.time()))
        for batch in list(self._batches):
            await cancel(batch)
        if self._extending:
            await cancel(self._extending)
        given_back += len(self._held)
        self._give_back(list(self._held))
        await self._source.settle()
        return given_back

    async def close(self) -> None:
        for task in (*self._batches, *([self._extending] if self._extending else ())):
            await cancel(task)

    def _release_waiting(self) -> int:
        waiting = list(self._waiting)
        self._waiting.clear()
        self._give_back(waiting)
        return len(waiting)

    def _form(self) -> None:
        self._forming = False
        while self._waiting and len(self._batches) < int(self._limit) and not self._draining:
            batch = asyncio.create_task(self._work(self._next_batch()))
            self._batches.add(batch)
            batch.add_done_callback(self._done)

    def _done(self, batch: asyncio.Task[None]) -> None:
        self._batches.discard(batch)
        self._form()
        self._source.more()

    def _next_batch(self) -> dict[Item, list[Event]]:
        """Up to a call's rows, each key once: DynamoDB refuses a batch that has one twice."""
        batch: dict[Key, tuple[Item, list[Event]]] = {}
        size, archived_at = 0, rfc3339(time.time_ns())
        while self._waiting and len(batch) < MAX_ITEMS:
            event = self._waiting[0]
            key = event.client_id, event.key
            if key in batch:
                batch[key][1].append(self._waiting.popleft())
                continue
            if batch and size + event.size > MAX_BYTES:
                break
            encoded = encode(event, self.host, archived_at, self._retention_s)
            if batch and size + len(encoded) > MAX_BYTES:  # as JSON a control character is six bytes
                break
            size += len(encoded)
            batch[key] = Item(key, encoded), [self._waiting.popleft()]
        return dict(batch.values())

    async def _work(self, batch: dict[Item, list[Event]]) -> None:
        events = [event for events in batch.values() for event in events]
        started_ns = time.monotonic_ns()
        try:
            await self._write(batch)
        except Exception as error:  # whatever it was, the events are still the source's
            log.exception("batch failed")
            self.stats.last_error = str(error) or type(error).__name__
            self._give_back([event for event in events if event in self._held], DEAD_RETRY_S)
        self.stats.batches += 1
        self.stats.processing_ns += time.monotonic_ns() - started_ns

    async def _write(self, batch: dict[Item, list[Event]]) -> None:
        for item, events in list(batch.items()):
            if events[0].unreadable:
                await self._bury(batch.pop(item), events[0].unreadable)
        left: Sequence[Item] = list(batch)
        while left:
            result = await self._writer.write(left)
            self._adapt(failed=bool(result.problem))
            self.stats.rows += len(result.written)
            self._finish([event for item in result.written for event in batch[item]])
            for item, reason in result.refused:
                await self._bury(batch[item], reason)
            left = result.unwritten
            self.stalled = result.problem if left else ""
            if left:
                self.stats.last_error = result.problem
                _unwritten.warning(result.problem, rows=len(left))

    def _adapt(self, *, failed: bool) -> None:
        now = self._loop.time()
        if not failed:
            self._limit = min(float(BATCHES), self._limit + GROW)
        elif now - self._shrunk_s > SHRINK_EVERY_S:
            self._limit, self._shrunk_s = max(1.0, self._limit / 2), now

    async def _bury(self, events: list[Event], reason: str) -> None:
        """A message that can never be a row goes to the dead-letter stream, or stays where it is."""
        self.stats.last_error = reason
        problem = await self._dead_letters.put(events[0], reason)
        if problem:
            self.stats.dead_refused += 1
            _kept.warning("", reason=reason, problem=problem, client_id=events[0].client_id, key=events[0].key)
            self._give_back(events, DEAD_RETRY_S)
            return
        self.stats.dead += 1
        _dead.warning("", reason=reason, client_id=events[0].client_id, key=events[0].key)
        self._finish(events)

    def _finish(self, events: list[Event]) -> None:
        self._source.acknowledge(events)
        self._forget(events)

    def _give_back(self, events: list[Event], delay_s: float = 0.0) -> None:
        self._source.give_back(events, delay_s)
        self._forget(events)

    def _forget(self, events: list[Event]) -> None:
        for event in events:
            if self._held.pop(event, None) is not None:
                self.held_bytes -= event.size

    async def _extend(self) -> None:
        """Keep what has been held for long from being delivered to another task."""
        every_s = self._source.extend_every_s
        while True:
            await asyncio.sleep(every_s / 4)
            now = self._loop.time()
            due = [event for event, since_s in self._held.items() if now - since_s > every_s]
            if due:
                self._source.extend(due)
                self._held.update(dict.fromkeys(due, now))
