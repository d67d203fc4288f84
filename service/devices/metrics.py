"""Metrics of the role `devices`: Prometheus families, and figures for CloudWatch once a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from prometheus_client.core import Metric

from service.devices.figures import UNITS
from service.devices.outages.report import Reporter
from service.devices.presence.presence import Presence
from service.devices.presence.record import ONLINE
from service.devices.query.server import Query
from service.dynamodb.writer import Writer
from service.nats.client import NatsClient
from service.requests.errors import Unavailable
from service.requests.micro import OUTCOMES, ConcurrentService
from service.runtime.logs import Repeated
from service.runtime.telemetry.emf import INTERVAL_S, Figure
from service.runtime.telemetry.metrics import counters, gauges, histograms, totals
from service.writing.archiver import Archiver
from service.writing.idle import Watch

_unknown: Final = Repeated(structlog.get_logger("service.devices"), "how many devices are online is not known")


class Online:
    """Counts the devices that are online, once a minute."""

    def __init__(self, presence: Presence) -> None:
        self.devices: int | None = None
        """None while it is not known."""
        self._presence = presence

    async def run(self) -> None:
        while True:
            try:
                self.devices = await self._presence.count(ONLINE)
            except Unavailable as error:
                self.devices = None
                _unknown.warning("", error=str(error))
            await asyncio.sleep(INTERVAL_S)


@dataclass
class Parts:
    """What is measured."""

    archiver: Archiver[Any]
    writer: Writer
    watch: Watch
    presence: Presence
    online: Online
    reporter: Reporter
    service: ConcurrentService
    query: Query
    nc: NatsClient
    _last_s: float = field(default_factory=time.monotonic)

    def seen(self) -> None:
        """Note that a reading came."""
        self._last_s = time.monotonic()

    def silence_s(self) -> float:
        """Return the seconds since this process received a reading; before the first one, since it began."""
        return time.monotonic() - self._last_s

    def oldest_s(self) -> float:
        """Return the age of the oldest message that this process works on."""
        return max(self.archiver.ledger.oldest_s(), self.presence.oldest_s())

    def dead(self) -> int:
        return self.archiver.stats.dead + self.presence.stats.dead

    def dead_refused(self) -> int:
        return self.archiver.stats.dead_refused + self.presence.stats.dead_refused


def families(parts: Parts) -> Iterator[Metric]:
    """Yield the Prometheus metrics."""
    yield from _of_readings(parts)
    yield from _of_presence(parts)
    yield from _of_answers(parts)
    yield from totals(("devices_nats_reconnects", "Reconnections to NATS.", parts.nc.stats["reconnects"]))


def _of_readings(parts: Parts) -> Iterator[Metric]:
    archiver = parts.archiver
    yield from totals(
        ("devices_readings", "Readings written as rows.", archiver.stats.rows),
        ("devices_dead_letters", "Messages that are no reading, connect or will.", parts.dead()),
        ("devices_dead_letters_refused", "Times the dead-letter stream took none.", parts.dead_refused()),
    )
    errors = {(error,): count for error, count in parts.writer.errors.items()}
    yield counters("devices_write_errors", "BatchWriteItem calls that failed, by error.", ["error"], errors)
    age = "Age of the oldest reading, connect or will being worked on."
    yield from gauges(
        ("devices_held", "Readings being worked on.", archiver.ledger.held),
        ("devices_held_bytes", "Bytes of the readings being worked on.", archiver.ledger.bytes),
        ("devices_reading_age_seconds", age, parts.oldest_s()),
        ("devices_silence_seconds", "Since this task received a reading.", parts.silence_s()),
    )
    if backlog := parts.watch.backlog:
        yield from gauges(("devices_readings_waiting", "Readings not written yet, of all tasks.", backlog.messages))


def _of_presence(parts: Parts) -> Iterator[Metric]:
    stats, reported = parts.presence.stats, parts.reporter.stats
    yield from totals(
        ("devices_connects", "Connects read.", stats.connects),
        ("devices_wills", "Wills read.", stats.wills),
        ("devices_wills_late", "Wills of connections that the device had replaced.", stats.late),
        ("devices_downs", "Outages published as events.", stats.downs),
        ("devices_ups", "Returns published as events.", stats.ups),
        ("devices_conflicts", "Records that another process changed first.", stats.conflicts),
        ("devices_reports", "Posts that the webhook took.", reported.reports),
        ("devices_reports_failed", "Posts that it did not take; they are sent again.", reported.failures),
    )
    if (online := parts.online.devices) is not None:
        yield from gauges(("devices_online", "Devices that are online, as all tasks see it.", online))
    yield from gauges(
        ("devices_outage_age_seconds", "Age of the oldest outage that no task has reported.", parts.reporter.oldest_s())
    )


def _of_answers(parts: Parts) -> Iterator[Metric]:
    requests = parts.service.requests
    outcomes = {(name, outcome): stats.outcomes[outcome] for name, stats in requests.items() for outcome in OUTCOMES}
    yield counters("devices_requests", "Requests answered, by outcome.", ["endpoint", "outcome"], outcomes)
    yield histograms(
        "devices_request_seconds", "From receipt to answer (OK, NOT_FOUND), in seconds.", ["endpoint"],
        {(name,): stats.latency_seconds for name, stats in requests.items()},
    )  # fmt: skip
    counts = parts.query.counts
    yield from totals(
        ("devices_rows_sent", "Rows sent over gRPC.", counts.rows),
        ("devices_streams_broken", "gRPC streams that broke off.", counts.broken),
        ("devices_calls_refused", "gRPC calls refused.", parts.query.calls.refused),
    )
    yield from gauges(("devices_streams", "gRPC streams open.", parts.query.streams))


class Minute:
    """Counts since the last call of `figures`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._last = self._totals()

    def figures(self) -> Mapping[str, Figure]:
        """Return a value for each metric of `UNITS`, but for those that are not known now."""
        before, self._last = self._last, self._totals()
        values = {name: total - before[name] for name, total in self._last.items()}
        values["DevicesReadingAge"] = self._parts.oldest_s()
        values["DevicesOutageAge"] = self._parts.reporter.oldest_s()
        values["DevicesSilence"] = self._parts.silence_s()
        if self._parts.online.devices is not None:
            values["DevicesOnline"] = self._parts.online.devices
        if backlog := self._parts.watch.backlog:
            values["DevicesReadingsWaiting"] = backlog.messages
        return {name: (value, UNITS[name]) for name, value in values.items()}

    def _totals(self) -> dict[str, float]:
        return {
            "DevicesReadings": self._parts.archiver.stats.rows,
            "DevicesDeadLetters": self._parts.dead(),
            "DevicesDeadLettersRefused": self._parts.dead_refused(),
            "DevicesReportFailures": self._parts.reporter.stats.failures,
        }
