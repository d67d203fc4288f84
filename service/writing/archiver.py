"""Write a source's messages as rows: several batches in flight, each acknowledged only after its write.

A message is held from its delivery until it is acknowledged or given back. Limits on held messages and bytes also limit
what is asked of the source. Held messages are extended in time, however long DynamoDB takes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from service.dynamodb.writer import MAX_BYTES, MAX_ITEMS, Item, Key, Writer
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.logs import Repeated
from service.sources.source import Message, Source
from service.writing.dead_letters import DeadLetters
from service.writing.intake import Intake
from service.writing.rows import Rows, Unreadable

log: Final = structlog.get_logger("service.archive")
_unwritten: Final = Repeated(log, "rows are not written yet")
_dead: Final = Repeated(log, "a message became a dead letter")
_kept: Final = Repeated(log, "the dead-letter stream does not take a message")

NS: Final = 1_000_000_000
BATCHES: Final = 16
"""Most batches in flight: at 8 ms per call they carry 30,000 rows/s."""
BATCHES_AT_START: Final = 4
GROW: Final = 0.25
SHRINK_EVERY_S: Final = 1.0
MAX_HELD: Final = 2_500
MAX_HELD_BYTES: Final = 6 * 1024 * 1024
MAX_SENDING_BYTES: Final = 6 * 1024 * 1024
"""Most bytes in flight, as JSON: there a control character is six bytes, and a call holds three times its rows."""
EXTEND_DIVISOR: Final = 3
DEAD_RETRY_S: Final = 60.0
"""Delay before a message that the dead-letter stream refused is delivered again."""


@dataclass(slots=True)
class ArchiveStats:
    rows: int = 0
    batches: int = 0
    dead: int = 0
    dead_refused: int = 0
    """Messages that the dead-letter stream refused; one refused twice counts twice."""
    processing_ns: int = 0
    last_error: str = ""


@dataclass(slots=True)
class Batch:
    """The rows of one call, each with its messages: a message delivered twice is one row."""

    rows: dict[Item, list[Message]] = field(default_factory=dict)
    size: int = 0
    """Bytes of its encoded rows."""
    unreadable: list[tuple[Message, str]] = field(default_factory=list)
    """Messages that cannot become a row, each with the reason."""

    def messages(self) -> list[Message]:
        return [
            *(message for messages in self.rows.values() for message in messages),
            *(message for message, _ in self.unreadable),
        ]


class Archiver:
    """Takes messages, writes rows, acknowledges. Call `start` first, and `drain` before closing the connections."""

    def __init__(self, source: Source, writer: Writer, dead_letters: DeadLetters, rows: Rows) -> None:
        self.stats = ArchiveStats()
        self.stalled = ""
        """Why rows are not being written; '' while they are."""
        self.held_bytes = 0
        self.received = 0
        """Deliveries so far: a message delivered twice counts twice."""
        self._source = source
        self._intake = Intake(source, self)
        self._writer = writer
        self._dead_letters = dead_letters
        self._rows = rows
        self._held: dict[Message, float] = {}
        """Held message -> when it was last delivered or extended, on the loop's clock."""
        self._waiting: deque[Message] = deque()
        self._sending: dict[asyncio.Task[None], int] = {}
        """Writing task -> bytes of its batch."""
        self._limit = float(BATCHES_AT_START)
        """Allowed batches in flight: grows while calls are answered, halves when one gets no answer. Throttling does
        not lower it: a throttled batch retries by itself."""
        self._shrunk_s = 0.0
        self._draining = False
        self._extending: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def held(self) -> int:
        return len(self._held)

    def oldest_s(self) -> float:
        """Return the age in seconds of the oldest held message; 0 if none is held."""
        now_ns = time.time_ns()
        return max(0.0, (now_ns - min((message.sent_ns for message in self._held), default=now_ns)) / NS)

    async def start(self) -> None:
        """Start the source, then receive and extend in background tasks. Raises whatever the source's `start` does."""
        await self._source.start()
        self._extending = background(self._extend(), "extend")
        self._intake.start()

    def room(self) -> tuple[int, int]:
        """Return how many more messages and bytes it can hold; negative if a large message exceeded the limit."""
        return MAX_HELD - len(self._held), MAX_HELD_BYTES - self.held_bytes

    def is_empty(self) -> bool:
        """Return whether no message is held."""
        return not self._held

    def take(self, messages: Sequence[Message]) -> None:
        """Hold messages and queue them for writing. Never waits or refuses: call it within `room`."""
        now = self._loop.time()
        self._held.update(dict.fromkeys(messages, now))
        self.received += len(messages)
        self.held_bytes += sum([message.size for message in messages])
        self._waiting += messages
        self._send_more()

    async def drain(self, timeout_s: float) -> int:
        """Stop receiving, give `timeout_s` seconds to running writes, give back the rest; return how many.

        Returns when the source has all acknowledgements: bound the call itself with a timeout.
        """
        deadline = self._loop.time() + timeout_s
        self._draining = True
        await self._intake.stop()
        given_back = self._release_waiting()
        if self._sending:
            await asyncio.wait(self._sending, timeout=max(0.0, deadline - self._loop.time()))
        for task in list(self._sending):
            await cancel(task)
        if self._extending:
            await cancel(self._extending)
        given_back += len(self._held)  # batches that were cancelled
        self._give_back(list(self._held))
        await self._source.settle()
        return given_back

    async def close(self) -> None:
        """Cancel all tasks. Messages still held are neither acknowledged nor given back: they are delivered again."""
        self._draining = True
        await self._intake.close()
        for task in (*self._sending, *([self._extending] if self._extending else ())):
            await cancel(task)

    def _release_waiting(self) -> int:
        waiting = list(self._waiting)
        self._waiting.clear()
        self._give_back(waiting)
        return len(waiting)

    def _send_more(self) -> None:
        while self._may_send():
            batch = self._next_batch()
            sending = asyncio.create_task(self._send(batch))
            self._sending[sending] = batch.size
            sending.add_done_callback(self._sent)

    def _may_send(self) -> bool:
        has_room = len(self._sending) < int(self._limit) and sum(self._sending.values()) < MAX_SENDING_BYTES
        return has_room and bool(self._waiting) and not self._draining

    async def _send(self, batch: Batch) -> None:
        """Write a batch, then the next while there is one: a new task per batch would cost CPU."""
        task = asyncio.current_task()
        assert task  # noqa: S101  always set inside a coroutine
        while True:
            await self._work(batch)
            del self._sending[task]
            self._intake.more()
            if not self._may_send():
                return
            batch = self._next_batch()
            self._sending[task] = batch.size
            self._send_more()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task, None)
        self._send_more()

    def _next_batch(self) -> Batch:
        """Make the rows of one call, each key once: DynamoDB refuses a batch with a duplicate key."""
        make, items = self._rows.batch(), dict[Key, Item]()
        batch, waiting = Batch(), self._waiting
        while waiting and len(items) + len(batch.unreadable) < MAX_ITEMS:
            message = waiting[0]
            if items and batch.size + message.size > MAX_BYTES:
                break
            try:
                item = make(message)
            except Exception as error:  # one bad message must not block the others
                batch.unreadable.append((message, _why_unreadable(error, message)))
            else:
                if same := items.get(item.key):
                    batch.rows[same].append(message)
                elif items and batch.size + len(item.encoded) > MAX_BYTES:  # as JSON a control character is six bytes
                    break
                else:
                    batch.size += len(item.encoded)
                    items[item.key] = item
                    batch.rows[item] = [message]
            waiting.popleft()
        return batch

    async def _work(self, batch: Batch) -> None:
        started_ns = time.monotonic_ns()
        try:
            await self._write(batch)
        except Exception as error:  # whatever it was, the source still has the messages
            log.exception("batch failed")
            self.stats.last_error = str(error) or type(error).__name__
            self._give_back([message for message in batch.messages() if message in self._held], DEAD_RETRY_S)
        self.stats.batches += 1
        self.stats.processing_ns += time.monotonic_ns() - started_ns

    async def _write(self, batch: Batch) -> None:
        for message, reason in batch.unreadable:
            await self._bury([message], reason)
        left: Sequence[Item] = list(batch.rows)
        while left:
            result = await self._writer.write(left)
            self._adapt(lost=result.lost)
            self.stats.rows += len(result.written)
            self._finish([message for item in result.written for message in batch.rows[item]])
            for item, reason in result.refused:
                await self._bury(batch.rows[item], reason)
            left = result.unwritten  # retried without end: the messages are extended meanwhile
            self.stalled = result.problem if left else ""
            if left:
                self.stats.last_error = result.problem
                _unwritten.warning(result.problem, rows=len(left))

    def _adapt(self, *, lost: bool) -> None:
        now = self._loop.time()
        if not lost:
            self._limit = min(float(BATCHES), self._limit + GROW)
        elif now - self._shrunk_s > SHRINK_EVERY_S:
            self._limit, self._shrunk_s = max(1.0, self._limit / 2), now

    async def _bury(self, messages: Sequence[Message], reason: str) -> None:
        """Move a message that can never become a row to the dead-letter stream; if refused, give it back."""
        client_id, key = self._rows.key(messages[0])
        self.stats.last_error = reason
        problem = await self._dead_letters.put(messages[0], reason)
        if problem:
            self.stats.dead_refused += 1
            _kept.warning("", reason=reason, problem=problem, client_id=client_id, key=key)
            self._give_back(messages, DEAD_RETRY_S)
            return
        self.stats.dead += 1
        _dead.warning("", reason=reason, client_id=client_id, key=key)
        self._finish(messages)

    def _finish(self, messages: Sequence[Message]) -> None:
        self._source.acknowledge(messages)
        self._forget(messages)

    def _give_back(self, messages: Sequence[Message], delay_s: float = 0.0) -> None:
        self._source.give_back(messages, delay_s)
        self._forget(messages)

    def _forget(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if self._held.pop(message, None) is not None:
                self.held_bytes -= message.size

    async def _extend(self) -> None:
        """Extend held messages before they become visible to another task."""
        while True:
            every_s = self._source.visibility_s / EXTEND_DIVISOR  # read each time: an operator may edit the consumer
            await asyncio.sleep(every_s / 4)
            now = self._loop.time()
            due = [message for message, since_s in self._held.items() if now - since_s > every_s]
            if due:
                self._source.extend(due)
                self._held.update(dict.fromkeys(due, now))


def _why_unreadable(error: Exception, message: Message) -> str:
    if isinstance(error, Unreadable):
        return str(error)
    log.error("a message cannot be encoded", id=message.id, exc_info=error)
    return f"cannot be encoded: {type(error).__name__}"
