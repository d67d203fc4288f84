"""Write a source's messages as rows: several batches in flight, each acknowledged only after its write.

A message is held from its delivery until it is acknowledged or given back. Limits on held messages and bytes also limit
what is asked of the source. Held messages are extended in time, however long DynamoDB takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic

import structlog

from service.dynamodb.writer import Item, Writer
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.logs import Repeated
from service.sources.source import M, WorkSource
from service.writing.batch import Batch, next_batch
from service.writing.intake import Intake
from service.writing.ledger import Ledger
from service.writing.letters import Letters
from service.writing.rows import Rows

log: Final = structlog.get_logger("service.archive")
_unwritten: Final = Repeated(log, "rows are not written yet")
_dead: Final = Repeated(log, "a message became a dead letter")
_kept: Final = Repeated(log, "the dead-letter stream does not take a message")

BATCHES: Final = 16
"""Most batches in flight: at 8 ms per call they carry 30,000 rows/s."""
BATCHES_AT_START: Final = 4
GROW: Final = 0.25
SHRINK_EVERY_S: Final = 1.0
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


class Archiver(Generic[M]):
    """Receives, writes rows, acknowledges. Call `start` first, and `drain` before closing the connections."""

    def __init__(self, source: WorkSource[M], writer: Writer, letters: Letters[M], rows: Rows[M]) -> None:
        self.stats = ArchiveStats()
        self.stalled = ""
        """Why rows are not being written; '' while they are."""
        self.ledger = Ledger[M]()
        self._source = source
        self._intake = Intake(source, self.ledger)
        self._writer = writer
        self._letters = letters
        self._rows = rows
        self._sending: dict[asyncio.Task[None], int] = {}
        """Writing task -> bytes of its batch."""
        self._limit = float(BATCHES_AT_START)
        """Allowed batches in flight: grows while calls are answered, halves when one gets no answer. Throttling does
        not lower it: a throttled batch retries by itself."""
        self._shrunk_s = 0.0
        self._draining = False
        self._running: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Start the source; receive, write and extend in background tasks. Raises what the source's `start` does."""
        await self._source.start()
        self._running = [background(self._extend(), "extend"), background(self._write_arrivals(), "write")]
        self._intake.start()

    async def drain(self, timeout_s: float) -> int:
        """Stop receiving, give `timeout_s` seconds to running writes, give back the rest; return how many.

        Returns when the source has all acknowledgements: bound the call itself with a timeout.
        """
        deadline = self._loop.time() + timeout_s
        self._draining = True
        await self._intake.stop()
        waiting = list(self.ledger.waiting)
        self.ledger.waiting.clear()
        self._give_back(waiting)
        if self._sending:
            await asyncio.wait(self._sending, timeout=max(0.0, deadline - self._loop.time()))
        await cancel(*self._sending, *self._running)
        unwritten = self.ledger.messages()  # of batches that were cancelled
        self._give_back(unwritten)
        await self._source.settle()
        return len(waiting) + len(unwritten)

    async def close(self) -> None:
        """Cancel all tasks. Messages still held are neither acknowledged nor given back: they are delivered again."""
        self._draining = True
        await self._intake.close()
        await cancel(*self._sending, *self._running)

    async def _write_arrivals(self) -> None:
        """Begin to write what arrives. A running `_send` takes the next batch by itself."""
        while True:
            await self.ledger.arrived.wait()
            self.ledger.arrived.clear()
            self._send_more()

    def _send_more(self) -> None:
        while self._may_send():
            batch = next_batch(self.ledger.waiting, self._rows.batch())
            sending = asyncio.create_task(self._send(batch))
            self._sending[sending] = batch.size
            sending.add_done_callback(self._sent)

    def _may_send(self) -> bool:
        has_room = len(self._sending) < int(self._limit) and sum(self._sending.values()) < MAX_SENDING_BYTES
        return has_room and bool(self.ledger.waiting) and not self._draining

    async def _send(self, batch: Batch[M]) -> None:
        """Write a batch, then the next while there is one: a new task per batch would cost CPU."""
        task = asyncio.current_task()
        assert task  # noqa: S101  always set inside a coroutine
        while True:
            await self._work(batch)
            del self._sending[task]
            if not self._may_send():
                return
            batch = next_batch(self.ledger.waiting, self._rows.batch())
            self._sending[task] = batch.size
            self._send_more()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task, None)
        self._send_more()

    async def _work(self, batch: Batch[M]) -> None:
        started_ns = time.monotonic_ns()
        try:
            await self._write(batch)
        except Exception as error:  # whatever it was, the source still has the messages
            log.exception("batch failed")
            self.stats.last_error = str(error) or type(error).__name__
            self._give_back([message for message in batch.messages() if message in self.ledger], DEAD_RETRY_S)
        self.stats.batches += 1
        self.stats.processing_ns += time.monotonic_ns() - started_ns

    async def _write(self, batch: Batch[M]) -> None:
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

    async def _bury(self, messages: Sequence[M], reason: str) -> None:
        """Move a message that can never become a row to the dead-letter stream; if refused, give it back."""
        client_id, key = self._rows.key(messages[0])
        self.stats.last_error = reason
        problem = await self._letters.put(messages[0], reason)
        if problem:
            self.stats.dead_refused += 1
            _kept.warning("", reason=reason, problem=problem, client_id=client_id, key=key)
            self._give_back(messages, DEAD_RETRY_S)
            return
        self.stats.dead += 1
        _dead.warning("", reason=reason, client_id=client_id, key=key)
        self._finish(messages)

    def _finish(self, messages: Sequence[M]) -> None:
        self._source.acknowledge(messages)
        self.ledger.forget(messages)

    def _give_back(self, messages: Sequence[M], delay_s: float = 0.0) -> None:
        self._source.give_back(messages, delay_s)
        self.ledger.forget(messages)

    async def _extend(self) -> None:
        """Extend held messages before they become visible to another task."""
        while True:
            every_s = self._source.visibility_s / EXTEND_DIVISOR  # read each time: an operator may edit the consumer
            await asyncio.sleep(every_s / 4)
            if due := self.ledger.due(every_s):
                self._source.extend(due)
