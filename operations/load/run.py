"""A load from its source to its result: check, set the flag, write, keep the checkpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from operations.load.checkpoint import Checkpoint, Done, Job
from operations.load.flag import set_flag
from operations.load.lines import CLIENT_ID
from operations.load.pace import MOST
from operations.load.read import START, BadFile, Batch, Reader, check
from operations.load.show import Progress, Report
from operations.load.source import Source
from operations.load.write import CALL_TIMEOUT_S, Result, Writer
from operations.table import table_id
from service.contracts import customer as contract
from service.dynamodb.client import DynamoDB

CHECKPOINT_S: Final = 1.0
HAS_ADJUSTMENTS: Final = "has adjustments, so its balance is not replaced; correct it with customer.adjust"
MAY_BE_REPLACED: Final = (
    "has adjustments now; it may have been replaced before them, by a call whose answer was lost or by an earlier run"
)


@dataclass(frozen=True)
class Plan:
    table: str
    attributes: contract.Attributes
    replace: bool
    checkpoint: Path | None
    """None: the load cannot be resumed."""
    seed_flag: bool
    """True if the seed flag is set first."""


@dataclass(slots=True)
class Outcome:
    """How a load ended. Bad and refused lines have been reported."""

    done: Done
    bad: bool = False
    is_whole: bool = False
    """With `bad`: all rows were written, but some clients have several."""
    resumed: int = 0
    """Rows that earlier runs completed."""
    lost: int = 0


async def load(source: Source, plan: Plan, report: Report) -> Outcome:
    """Write a source's rows. Raises `ServiceError` if it cannot continue; the checkpoint then says where to resume.

    A source that can be read twice is checked first, and nothing of it is written if a line is bad.
    """
    content = ""
    if source.size is not None:
        progress = Progress("checking", source.size)
        found = await check(source, report.line, progress.show)
        progress.end()
        if found.bad:
            return Outcome(Done(START), bad=True)
        content = found.digest
    api = DynamoDB.configured(CALL_TIMEOUT_S)
    try:
        job = Job(
            plan.table, await table_id(api, plan.table, plan.attributes.key), plan.attributes.key,
            plan.attributes.balance, plan.replace, content,
        )  # fmt: skip
        checkpoint = Checkpoint(plan.checkpoint, job)
        before = checkpoint.read()
        if plan.seed_flag and (note := await set_flag()):
            report.note(note)
        checkpoint.write(before or Done(START))  # before the first row, to be sure that it can be written
        report.kept = plan.checkpoint
        writer = Writer(api, plan.table, plan.attributes, replace=plan.replace)
        return await _Load(source, writer, checkpoint, before, report).run()
    finally:
        api.close()


class _Load:
    def __init__(
        self, source: Source, writer: Writer, checkpoint: Checkpoint, before: Done | None, report: Report
    ) -> None:
        self._done = before or Done(START)
        self._is_resumed = before is not None
        self._outcome = Outcome(self._done, resumed=self._done.written + self._done.there + self._done.refused)
        self._batches: AsyncIterator[Batch] = Reader(source, report.line, self._done.mark).batches()
        self._reading = asyncio.Lock()
        self._writer = writer
        self._checkpoint = checkpoint
        self._report = report
        self._progress = Progress("loading", source.size, begun_at=self._done.mark.offset)
        self._saved_s = time.monotonic()
        self._waiting: dict[int, tuple[Batch, Result]] = {}
        """Batches that are done, while an earlier one is not."""
        self._next = 0
        self._rows = 0

    async def run(self) -> Outcome:
        works = [asyncio.create_task(self._work()) for _ in range(MOST)]
        try:
            await self._end_of(works)
        except BaseException:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            self._checkpoint.write(self._done)
            raise
        finally:
            self._progress.end()
        if self._outcome.bad and not self._outcome.is_whole:
            self._checkpoint.write(self._done)
        else:
            self._checkpoint.remove()
        self._outcome.done, self._outcome.lost = self._done, self._writer.lost
        return self._outcome

    async def _end_of(self, works: Sequence[asyncio.Task[None]]) -> None:
        """Return once everything that was read is written. Raises a failed call's error, even after a bad line."""
        try:
            await asyncio.gather(*works)
        except BadFile as error:
            self._outcome.bad, self._outcome.is_whole = True, error.at_its_end
            # what was read before the bad line is good
            for ended in await asyncio.gather(*works, return_exceptions=True):
                if ended is not None and not isinstance(ended, BadFile):
                    raise ended from None

    async def _work(self) -> None:
        while batch := await self._read():
            result = await self._writer.write(batch.clients)
            why = MAY_BE_REPLACED if self._writer.lost or self._is_resumed else HAS_ADJUSTMENTS
            for line in result.refused:
                self._report.line(line, CLIENT_ID, why)
            self._take(batch, result)

    async def _read(self) -> Batch | None:
        async with self._reading:
            return await anext(self._batches, None)

    def _take(self, batch: Batch, result: Result) -> None:
        self._rows += len(batch.clients)
        self._waiting[batch.number] = batch, result
        while self._next in self._waiting:
            first, its = self._waiting.pop(self._next)
            self._next += 1
            self._done = replace(
                self._done, mark=first.end, written=self._done.written + its.written,
                there=self._done.there + its.there, refused=self._done.refused + len(its.refused),
            )  # fmt: skip
        self._progress.show(self._done.mark.offset, self._rows)
        if time.monotonic() - self._saved_s > CHECKPOINT_S:
            self._saved_s = time.monotonic()
            self._checkpoint.write(self._done)
