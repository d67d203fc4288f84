"""The role `queue`: wires its parts, and opens, drains and closes them in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Final

import grpc
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from service import __version__
from service.contracts import queue as contract
from service.grpc.health import Health
from service.grpc.listen import OPTIONS, bind, lost
from service.nats.connection import Connection
from service.queue.response import RESPONSE_BYTES
from service.queue.server import SQSService
from service.queue.settings import QueueSettings
from service.runtime.cancel import cancel
from service.runtime.process import Stop
from service.runtime.role import Need
from service.sources.source import Source

log: Final = structlog.get_logger("service.queue")

WATCH_S: Final = 0.2
"""Seconds for clients that watch the health to hear that the sidecar stops."""
SETTLE_S: Final = 3.0
"""Longer than the two seconds after which SQS ends an abandoned receive."""


class Queue:
    """A sidecar: hands out a stream's or an SQS queue's messages over gRPC, and deletes them on request."""

    SETTINGS: ClassVar = QueueSettings

    def __init__(self, settings: QueueSettings, stop: Stop) -> None:
        self._settings = settings
        self._state = "starting"
        kind, _, name = settings.queue.partition(":")
        self._connection: Connection | None = None
        if kind == "jetstream":
            self._connection = Connection(settings, name="queue", inbox_prefix=contract.INBOX_PREFIX, on_lost=stop.fail)
        self._source = _source(settings, name, self._connection)
        self._service = SQSService(self._source)
        self._health = Health(contract.GRPC_SERVICE)
        self._server: grpc.aio.Server | None = None

    def needs(self) -> Sequence[Need]:
        if not self._connection:
            return self._source.needs()
        connected = Need(f"NATS at {self._settings.nats_shown}", self._connection.open)
        return (connected, *map(self._connection.steady, self._source.needs()))

    async def start(self) -> None:
        await self._source.start()
        self._server = grpc.aio.server(options=OPTIONS)
        self._service.add_to(self._server)
        self._health.add_to(self._server)
        port = await bind(self._server, self._settings.address)
        await self._server.start()
        await self._health.serving()
        self._state = "serving"
        log.info("handing out messages", queue=self._settings.queue, listen=self._settings.queue_listen, port=port,
                 version=__version__)  # fmt: skip

    async def drain(self, timeout_s: float) -> None:
        self._state = "draining"
        await self._health.stopping()
        deadline = time.monotonic() + timeout_s
        await self._service.stop()
        if self._server:
            await self._end_calls(self._server, timeout_s)
        await self._settle(min(SETTLE_S, deadline - time.monotonic()))
        counts = self._service.counts
        log.info("drained", received=counts.received, deleted=counts.deleted)

    async def _end_calls(self, server: grpc.aio.Server, timeout_s: float) -> None:
        """Wait for calls of our service, not for health watches: those would stay open all the time."""
        stopping = asyncio.ensure_future(server.stop(timeout_s))
        for _ in range(2):  # a call that gRPC had accepted may begin only now
            idle = asyncio.ensure_future(self._service.idle())
            await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((stopping,), timeout=WATCH_S)
            await cancel(idle)
        await server.stop(0)  # a second call shortens the grace of the first
        await stopping

    async def _settle(self, timeout_s: float) -> None:
        """Make messages visible again that were on their way to clients that are gone."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._source.settle()
        except TimeoutError:
            log.warning("the queue does not answer; what is held is visible again when its visibility ends")

    async def close(self) -> None:
        if self._server:
            await self._server.stop(None)
        await self._source.close()
        if self._connection:
            await self._connection.close()

    async def problems(self) -> Mapping[str, str]:
        found = {}
        if self._state != "serving":
            found["service"] = self._state
        elif problem := lost(self._settings.queue_listen):
            found["listen"] = problem
        if problem := self._source.problem():
            found["queue"] = problem
        return found

    async def remarks(self) -> Mapping[str, str]:
        remark = await self._source.remark()
        return {"queue": remark} if remark else {}

    def metrics(self) -> Iterator[Metric]:
        counts = self._service.counts
        for name, value, what in (
            ("queue_messages_received", counts.received, "Messages handed out."),
            ("queue_messages_deleted", counts.deleted, "Messages deleted, confirmed by the queue."),
            ("queue_errors", counts.refused, "Calls and receipts answered with an error."),
            ("queue_dead_letters", self._source.dead_letters, "Messages set aside by this sidecar."),
            ("queue_dead_letters_refused", self._source.dead_letters_refused, "Times that one could not be set aside."),
        ):
            yield CounterMetricFamily(name, what, value)
        yield GaugeMetricFamily("queue_reachable", "1 when the queue can be reached.", not self._source.problem())

    def figures(self) -> None:
        """Return None: SQS itself, or for a stream the role `customer`, reports a queue's figures."""


def _source(settings: QueueSettings, name: str, connection: Connection | None) -> Source:
    if connection is None:
        from service.sources.sqs.source import Sqs  # noqa: PLC0415  only a task that reads SQS loads boto3

        return Sqs(name, "QUEUE")
    from service.sources.jetstream.consumer import Reader  # noqa: PLC0415
    from service.sources.jetstream.dead_letters import DeadLetterStream  # noqa: PLC0415
    from service.sources.jetstream.redrive import Redrive  # noqa: PLC0415
    from service.sources.jetstream.source import JetStream  # noqa: PLC0415

    publish = contract.publish(name, settings.queue_consumer)
    reader = Reader(contract.USER, name, settings.queue_consumer, publish, contract.SUBSCRIBE)
    letters = DeadLetterStream(connection, contract.USER, contract.DEAD_STREAM, contract.DEAD_SUBJECT, name)
    return JetStream(connection, reader, Redrive(letters, settings.queue_max_deliver, RESPONSE_BYTES))
