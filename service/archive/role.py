"""The role `archive`: wires its parts, and opens, drains and closes them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import structlog
from prometheus_client.core import Metric

from service import __version__
from service.archive import metrics
from service.archive.dead_letters import letters
from service.archive.event import EventRows
from service.archive.host import host
from service.archive.settings import ArchiveSettings
from service.contracts import archive as contract
from service.contracts.cloudwatch import METRICS_DIMENSION, METRICS_NAMESPACE
from service.dynamodb.writer import Writer
from service.nats.connection import Connection, confirm
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.process import Stop
from service.runtime.role import Need
from service.runtime.telemetry.emf import Figures
from service.sources.jetstream.consumer import Reader
from service.sources.jetstream.continuity import Continuity
from service.sources.jetstream.dead_letters import DeadLetterStream
from service.sources.jetstream.source import JetStream
from service.sources.source import WorkSource
from service.writing.archiver import Archiver
from service.writing.heap import give_back_large_blocks
from service.writing.idle import Watch

log: Final = structlog.get_logger("service.archive")

DAY_S: Final = 86_400


class Archive:
    """Moves a stream's events, or a queue's messages, into a DynamoDB table; ends the process when none are left."""

    SETTINGS: ClassVar = ArchiveSettings

    def __init__(self, settings: ArchiveSettings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._state = "starting"
        self._connection = Connection(settings, name="archive", inbox_prefix=contract.INBOX_PREFIX, on_lost=stop.fail)
        self._nc = self._connection.nc
        self._continuity = Continuity()
        """Counts nothing for SQS, which does not report it: set an alarm on the age of its oldest message, below its
        retention.
        """
        kind, _, name = settings.archive_source.partition(":")
        self._stream = self._read_stream(name) if kind == "jetstream" else None
        self._source: WorkSource[Any] = self._stream or _queue(name)
        self._writer = Writer(settings.archive_table, contract.PARTITION_KEY, contract.SORT_KEY, "ARCHIVE_TABLE")
        self._dead_letters = DeadLetterStream(
            self._connection, contract.USER, contract.DEAD_STREAM, contract.DEAD_SUBJECT, self._source.name
        )
        self._rows = EventRows(settings.retention_days * DAY_S)
        self._archiver = Archiver(
            self._source, self._writer, letters(self._dead_letters, self._source.name), self._rows
        )
        self._watch = Watch(self._source, self._archiver.ledger, settings.idle_exit, finish=self._idle, fail=stop.fail)
        self._statistics = metrics.Statistics(
            self._nc, self._source.name, self._archiver, self._continuity, self._writer, self._rows
        )
        self._watching: asyncio.Task[None] | None = None

    def needs(self) -> Sequence[Need]:
        return (
            Need(f"NATS at {self._settings.nats_shown}", self._connection.open),
            *map(self._connection.steady, (*self._source.needs(), self._dead_letters.need())),
            Need(f"table {self._writer.name}", self._look_at_table),
        )

    async def start(self) -> None:
        give_back_large_blocks()
        self._rows.host = await host()
        await self._statistics.start()
        await confirm(self._nc)
        await self._archiver.start()  # last: a start cancelled by a signal is not drained
        self._watching = background(self._watch.run(), "backlog")
        self._state = "serving"
        log.info("archiving", source=self._settings.source_shown, table=self._writer.name,
                 id=self._statistics.id, host=self._rows.host, version=__version__)  # fmt: skip

    async def drain(self, timeout_s: float) -> None:
        self._state = "draining"
        log.info("draining", held=self._archiver.ledger.held)
        given_back = 0
        try:
            async with asyncio.timeout(timeout_s):
                given_back = await self._archiver.drain(timeout_s / 2)
        except TimeoutError:
            held = self._archiver.ledger.held
            log.warning("the source does not answer; what is held is delivered again later", held=held)
        stats = self._archiver.stats
        log.info("drained", rows=stats.rows, given_back=given_back, dead_letters=stats.dead)

    async def close(self) -> None:
        if self._watching:
            await cancel(self._watching)
        await self._archiver.close()
        await self._source.close()
        await self._connection.close()
        self._writer.close()

    async def problems(self) -> Mapping[str, str]:
        found = {}
        if self._state != "serving":
            found["service"] = self._state
        if not self._nc.is_connected:
            found["nats"] = "not connected"
        if problem := self._source.problem():
            found["source"] = problem
        if self._archiver.stalled:
            found["table"] = f"{self._archiver.stalled}; {self._archiver.ledger.held} messages held"
        return found

    async def remarks(self) -> Mapping[str, str]:
        remark = await self._stream.remark() if self._stream else ""
        return {"source": remark} if remark else {}

    def metrics(self) -> Iterator[Metric]:
        return metrics.families(self._archiver, self._continuity, self._writer, self._watch, self._nc)

    def figures(self) -> Figures:
        minute = metrics.Minute(self._archiver, self._continuity, self._writer)
        return Figures(METRICS_NAMESPACE, (METRICS_DIMENSION, self._writer.name), minute.figures)

    def _idle(self) -> None:
        log.info("nothing left", idle_s=self._settings.idle_exit)
        self._stop.finish()

    async def _look_at_table(self) -> None:
        self._writer.open()
        await self._writer.check()

    def _read_stream(self, name: str) -> JetStream:
        consumer = self._settings.archive_consumer
        publish = contract.publish(name, consumer)
        reader = Reader(contract.USER, name, consumer, publish, contract.SUBSCRIBE, answers=True, whole=True)
        return JetStream(self._connection, reader, continuity=self._continuity)


def _queue(name: str) -> WorkSource[Any]:
    from service.sources.sqs.source import Sqs  # noqa: PLC0415  only a task that reads SQS loads boto3

    return Sqs(name, "ARCHIVE_SOURCE")
