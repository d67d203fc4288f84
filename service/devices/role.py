"""The role `devices`: wires its parts, and opens, drains and closes them in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import structlog
from nats.micro.service import ServiceConfig
from prometheus_client.core import Metric

from service import __version__
from service.contracts import devices as contract
from service.contracts.cloudwatch import METRICS_DIMENSION, METRICS_NAMESPACE
from service.devices import metrics
from service.devices.endpoints.get import Get
from service.devices.endpoints.list import List
from service.devices.letters import LIFE, READINGS, letters
from service.devices.outages.report import Reporter
from service.devices.presence.presence import Presence
from service.devices.pulse import Pulse
from service.devices.query.server import Query
from service.devices.query.table import Readings
from service.devices.reading import ReadingRows
from service.devices.settings import DevicesSettings
from service.dynamodb.writer import Writer
from service.grpc.server import Server
from service.nats import jetstream, permissions
from service.nats.connection import Connection, confirm
from service.requests.micro import ConcurrentService
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.process import CLOSE_S, Stop
from service.runtime.role import Need
from service.runtime.telemetry.emf import Figures
from service.runtime.telemetry.tracing import tracing
from service.sources.jetstream.consumer import Reader
from service.sources.jetstream.source import JetStream
from service.writing.archiver import Archiver
from service.writing.heap import give_back_large_blocks
from service.writing.idle import Watch

log: Final = structlog.get_logger("service.devices")

DAY_S: Final = 86_400
REQUESTS: Final = 256
"""Most requests of `devices.get` and `devices.list` that are answered at a time."""
NEVER_S: Final = 0.0
"""The role does not end when nothing is left to do."""


class Devices:
    """Readings of MQTT devices into a DynamoDB table, their presence, and answers over NATS and gRPC."""

    SETTINGS: ClassVar = DevicesSettings

    def __init__(self, settings: DevicesSettings, stop: Stop) -> None:
        self._settings = settings
        self._state = "starting"
        self._made_s = time.monotonic()
        self._connection = Connection(settings, name="devices", inbox_prefix=contract.INBOX_PREFIX, on_lost=stop.fail)
        self._nc = self._connection.nc
        # `discarded` says nothing here: the stream loses what the consumer's filter does not want.
        reader = Reader(contract.USER, contract.MQTT_STREAM, contract.DATA_CONSUMER, (), (), whole=False)
        self._source = JetStream(self._connection, reader)
        self._writer = Writer(settings.devices_table, contract.PARTITION_KEY, contract.SORT_KEY, "DEVICES_TABLE")
        self._rows = ReadingRows(settings.facility, settings.retention_days * DAY_S, self._seen)
        self._archiver = Archiver(self._source, self._writer, letters(self._connection, READINGS), self._rows)
        self._watch = Watch(self._source, self._archiver.ledger, NEVER_S, finish=stop.finish, fail=stop.fail)
        self._presence = Presence(self._connection, letters(self._connection, LIFE), settings.device_silence, stop.fail)
        self._online = metrics.Online(self._presence)
        self._reporter = Reporter(self._connection, settings, stop.fail)
        self._pulse = Pulse(self._connection, settings.pulse)
        self._readings = Readings(settings.devices_table)
        self._query = Query(self._readings)
        self._server = Server(settings.address, contract.GRPC_SERVICE, self._query)
        self._tracing = tracing()
        self._service = ConcurrentService(
            self._nc,
            ServiceConfig(name=contract.SERVICE_NAME, version=__version__, description="MQTT devices and readings."),
            (Get(self._presence, self._readings).endpoint, List(self._presence).endpoint),
            max_in_flight=REQUESTS,
            tracing=self._tracing,
            facts=self._facts,
        )
        self._parts = metrics.Parts(
            self._archiver, self._writer, self._watch, self._presence, self._online, self._reporter, self._service,
            self._query, self._nc,
        )  # fmt: skip
        self._watching: list[asyncio.Task[None]] = []

    def needs(self) -> Sequence[Need]:
        parts = [*self._source.needs(), *self._presence.needs(), *self._reporter.needs()]
        once = {need.name: need for need in parts if need.name != "permissions"}
        steady = (
            Need("permissions", self._look_at_permissions),
            *once.values(),
            Need(f"stream {contract.DEAD_STREAM}", self._look_at_dead_letters),
        )
        return (
            Need(f"NATS at {self._settings.nats_shown}", self._connection.open),
            *map(self._connection.steady, steady),
            Need(f"table {self._writer.name}", self._look_at_table),
        )

    async def start(self) -> None:
        give_back_large_blocks()
        port = await self._server.start()
        await self._service.serve()
        await confirm(self._nc)
        await self._presence.start()
        await self._reporter.start()
        await self._pulse.start()
        await self._archiver.start()  # last: a start cancelled by a signal is not drained
        self._watching = [background(self._watch.run(), "backlog"), background(self._online.run(), "online")]
        self._state = "serving"
        log.info("serving", table=self._writer.name, listen=self._settings.devices_listen, port=port,
                 id=self._service.id, version=__version__)  # fmt: skip

    async def drain(self, timeout_s: float) -> None:
        self._state = "draining"
        log.info("draining", held=self._archiver.ledger.held, in_flight=self._service.in_flight)
        try:
            async with asyncio.timeout(timeout_s):
                ended = await asyncio.gather(
                    self._pulse.close(),
                    self._archiver.drain(timeout_s / 2),
                    self._presence.drain(timeout_s),
                    self._reporter.drain(timeout_s),
                    self._service.drain(),
                    self._server.drain(timeout_s / 2),
                    return_exceptions=True,
                )
            for error in ended:
                if isinstance(error, BaseException):
                    log.error("drained in part", exc_info=error)
        except TimeoutError:
            log.warning("NATS does not answer; what is held is delivered again later", held=self._archiver.ledger.held)
        stats = self._archiver.stats
        log.info("drained", rows=stats.rows, dead_letters=stats.dead)

    async def close(self) -> None:
        await cancel(*self._watching)
        await self._archiver.close()
        await asyncio.gather(  # each may wait for a silent server, for as long as all of them have
            self._pulse.close(), self._server.close(), self._presence.close(), self._reporter.close(),
            self._source.close(), self._tracing.close(CLOSE_S / 2),
        )  # fmt: skip
        await self._connection.close()
        self._readings.close()
        self._writer.close()

    async def problems(self) -> Mapping[str, str]:
        return self._problems()

    def _problems(self) -> dict[str, str]:
        found = {}
        if self._state != "serving":
            found["service"] = self._state
        elif problem := self._server.problem():
            found["listen"] = problem
        if not self._nc.is_connected:
            found["nats"] = "not connected"
        stalled = self._archiver.stalled
        parts = {
            "readings": self._source.problem(),
            "presence": self._presence.problem(),
            "table": f"{stalled}; {self._archiver.ledger.held} readings held" if stalled else "",
        }
        return found | {part: problem for part, problem in parts.items() if problem}

    async def remarks(self) -> Mapping[str, str]:
        found = {"readings": await self._source.remark(), "outages": self._reporter.problem()}
        return {part: remark for part, remark in found.items() if remark}

    def metrics(self) -> Iterator[Metric]:
        return metrics.families(self._parts)

    def figures(self) -> Figures:
        minute = metrics.Minute(self._parts)
        return Figures(METRICS_NAMESPACE, (METRICS_DIMENSION, self._writer.name), minute.figures)

    def _seen(self, device: str, sequence: int, sent_ns: int) -> None:
        self._parts.seen()
        self._presence.seen(device, sequence, sent_ns)

    def _facts(self) -> Mapping[str, Any]:
        """Return what an operator sees of this task in `$SRV.STATS`, from anywhere."""
        problems = self._problems()
        return {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._made_s, 1),
            "ready": not problems,
            "problems": problems,
            "readings": self._archiver.stats.rows,
            "dead_letters": self._archiver.stats.dead,
            "held": self._archiver.ledger.held,
        }

    async def _look_at_permissions(self) -> None:
        self._connection.jetstream  # noqa: B018  raises Skipped without a connection
        await permissions.look(self._nc, contract.USER, contract.PUBLISH, contract.SUBSCRIBE)

    async def _look_at_dead_letters(self) -> None:
        subjects = [f"{contract.DEAD_SUBJECT}.{kind}" for kind in (READINGS, LIFE)]
        await jetstream.check_stream(self._connection.jetstream, contract.DEAD_STREAM, subjects, contract.USER)

    async def _look_at_table(self) -> None:
        self._writer.open()
        self._readings.open()
        await self._writer.check()
        await self._readings.check()
