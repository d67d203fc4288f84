"""Metrics of the role `archive`: Prometheus families, figures for CloudWatch once a minute, `$SRV` statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from nats.micro.service import EndpointStats, ServiceConfig, ServiceStats
from prometheus_client.core import Metric

from service import __version__
from service.archive.event import EventRows
from service.contracts import archive as contract
from service.dynamodb.writer import Writer
from service.nats.client import NatsClient
from service.nats.srv import Discovery
from service.runtime.telemetry.emf import Figure
from service.runtime.telemetry.metrics import counters, gauges, totals
from service.sources.jetstream.continuity import Continuity
from service.writing.archiver import Archiver
from service.writing.idle import Watch

UNITS: Final = {
    "ArchiveRows": "Count",
    "ArchiveWriteErrors": "Count",
    "ArchiveDeadLetters": "Count",
    "ArchiveDeadLettersRefused": "Count",
    "ArchiveDiscarded": "Count",
    "ArchiveLag": "Seconds",
}
"""Every CloudWatch metric of this role -> its unit."""


def families(
    archiver: Archiver[Any], continuity: Continuity, writer: Writer, watch: Watch, nc: NatsClient
) -> Iterator[Metric]:
    """Yield the Prometheus metrics."""
    stats = archiver.stats
    yield from totals(
        ("archive_rows", "Rows written.", stats.rows),
        ("archive_dead_letters", "Messages that cannot become a row.", stats.dead),
        ("archive_dead_letters_refused", "Times the dead-letter stream took none.", stats.dead_refused),
        (
            "archive_discarded",
            "Messages that the source discarded before they were archived. Each task counts all: take the maximum.",
            continuity.discarded,
        ),
        ("archive_nats_reconnects", "Reconnections to NATS.", nc.stats["reconnects"]),
    )
    errors = {(error,): count for error, count in writer.errors.items()}
    yield counters("archive_write_errors", "BatchWriteItem calls that failed, by error.", ["error"], errors)
    yield from gauges(
        ("archive_held", "Messages being worked on.", archiver.ledger.held),
        ("archive_held_bytes", "Bytes of the messages being worked on.", archiver.ledger.bytes),
        ("archive_lag_seconds", "Age of the oldest message being worked on.", archiver.ledger.oldest_s()),
    )
    if backlog := watch.backlog:
        discarded = "Messages that the source discarded before all before them were acknowledged."
        yield from gauges(
            ("archive_backlog", "Messages not archived yet, of all tasks.", backlog.messages),
            ("archive_unconfirmed", discarded, backlog.unconfirmed),
        )


class Minute:
    """Counts since the last call of `figures`."""

    def __init__(self, archiver: Archiver[Any], continuity: Continuity, writer: Writer) -> None:
        self._archiver = archiver
        self._continuity = continuity
        self._writer = writer
        self._last = self._totals()

    def figures(self) -> Mapping[str, Figure]:
        before, self._last = self._last, self._totals()
        values = {name: total - before[name] for name, total in self._last.items()}
        values["ArchiveLag"] = self._archiver.ledger.oldest_s()
        return {name: (value, UNITS[name]) for name, value in values.items()}

    def _totals(self) -> dict[str, float]:
        stats = self._archiver.stats
        return {
            "ArchiveRows": stats.rows,
            "ArchiveWriteErrors": self._writer.errors.total(),
            "ArchiveDeadLetters": stats.dead,
            "ArchiveDeadLettersRefused": stats.dead_refused,
            "ArchiveDiscarded": self._continuity.discarded,
        }


class Statistics(Discovery):
    """`$SRV` of a service that answers no requests: its one endpoint counts rows."""

    def __init__(
        self, nc: NatsClient, name: str, archiver: Archiver[Any], continuity: Continuity, writer: Writer,
        rows: EventRows,
    ) -> None:  # fmt: skip
        """`name` is that of the source."""
        config = ServiceConfig(name=contract.SERVICE_NAME, version=__version__, description="Events into DynamoDB.")
        super().__init__(nc, config)
        self._rows = rows
        self._archiver = archiver
        self._source_name = name
        self._continuity = continuity
        self._writer = writer

    def stats(self) -> ServiceStats:
        stats, archived = super().stats(), self._archiver.stats
        stats.endpoints = [
            EndpointStats(
                name="rows",
                subject=self._source_name,
                queue_group="",
                num_requests=archived.rows + archived.dead,
                num_errors=archived.dead,
                last_error=archived.last_error,
                processing_time=archived.processing_ns,
                average_processing_time=archived.processing_ns // max(1, archived.rows),
                data={
                    "held": self._archiver.ledger.held,
                    "held_bytes": self._archiver.ledger.bytes,
                    "discarded": self._continuity.discarded,
                    "write_errors": self._writer.errors.total(),
                    "host": self._rows.host,
                },
            )
        ]
        return stats
