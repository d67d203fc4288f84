"""The role `queue`: wires its parts, and opens, drains and closes them in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import structlog
from prometheus_client.core import Metric

from service import __version__
from service.contracts import queue as contract
from service.grpc.server import Server
from service.nats.connection import Connection
from service.queue.response import RESPONSE_BYTES
from service.queue.server import SQSService
from service.queue.settings import QueueSettings
from service.runtime.process import Stop
from service.runtime.role import Need
from service.runtime.telemetry.metrics import gauges, totals
from service.sources.jetstream.consumer import Reader
from service.sources.jetstream.dead_letters import DeadLetterStream
from service.sources.jetstream.redrive import Redrive, SetAside
from service.sources.jetstream.source import JetStream
from service.sources.jetstream.timing import Timing
from service.sources.source import ReceiptSource

log: Final = structlog.get_logger("service.queue")

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
        self._stream: JetStream | None = None
        self._set_aside = SetAside()
        """Stays zero for SQS, which does it itself, by the queue's redrive policy."""
        if kind == "jetstream":
            self._connection = Connection(settings, name="queue", inbox_prefix=contract.INBOX_PREFIX, on_lost=stop.fail)
            self._stream = _stream(settings, name, self._connection, self._set_aside)
        self._source: ReceiptSource[Any] = self._stream or _queue(name)
        self._service = SQSService(self._source)
        self._server = Server(settings.address, contract.GRPC_SERVICE, self._service)

    def needs(self) -> Sequence[Need]:
        if not self._connection:
            return self._source.needs()
        connected = Need(f"NATS at {self._settings.nats_shown}", self._connection.open)
        return (connected, *map(self._connection.steady, self._source.needs()))

    async def start(self) -> None:
        await self._source.start()
        port = await self._server.start()
        self._state = "serving"
        log.info("handing out messages", queue=self._settings.queue, listen=self._settings.queue_listen, port=port,
                 version=__version__)  # fmt: skip

    async def drain(self, timeout_s: float) -> None:
        self._state = "draining"
        deadline = time.monotonic() + timeout_s
        await self._server.drain(timeout_s)
        await self._settle(min(SETTLE_S, deadline - time.monotonic()))
        counts = self._service.counts
        log.info("drained", received=counts.received, deleted=counts.deleted)

    async def _settle(self, timeout_s: float) -> None:
        """Make messages visible again that were on their way to clients that are gone."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._source.settle()
        except TimeoutError:
            log.warning("the queue does not answer; what is held is visible again when its visibility ends")

    async def close(self) -> None:
        await self._server.close()
        await self._source.close()
        if self._connection:
            await self._connection.close()

    async def problems(self) -> Mapping[str, str]:
        found = {}
        if self._state != "serving":
            found["service"] = self._state
        elif problem := self._server.problem():
            found["listen"] = problem
        if problem := self._source.problem():
            found["queue"] = problem
        return found

    async def remarks(self) -> Mapping[str, str]:
        remark = await self._stream.remark() if self._stream else ""
        return {"queue": remark} if remark else {}

    def metrics(self) -> Iterator[Metric]:
        counts = self._service.counts
        yield from totals(
            ("queue_messages_received", "Messages handed out.", counts.received),
            ("queue_messages_deleted", "Messages deleted, confirmed by the queue.", counts.deleted),
            ("queue_errors", "Calls and receipts answered with an error.", self._service.calls.refused),
            ("queue_dead_letters", "Messages set aside by this sidecar.", self._set_aside.kept),
            ("queue_dead_letters_refused", "Times that one could not be set aside.", self._set_aside.refused),
        )
        yield from gauges(("queue_reachable", "1 when the queue can be reached.", not self._source.problem()))

    def figures(self) -> None:
        """Return None: SQS itself, or for a stream the role `customer`, reports a queue's figures."""


def _stream(
    settings: QueueSettings, name: str, connection: Connection, counts: SetAside, timing: Timing = Timing()
) -> JetStream:
    publish = contract.publish(name, settings.queue_consumer)
    reader = Reader(contract.USER, name, settings.queue_consumer, publish, contract.SUBSCRIBE)
    letters = DeadLetterStream(connection, contract.USER, contract.DEAD_STREAM, contract.DEAD_SUBJECT, name)
    redrive = Redrive(letters, counts, settings.queue_max_deliver, RESPONSE_BYTES)
    return JetStream(connection, reader, redrive=redrive, timing=timing)


def _queue(name: str) -> ReceiptSource[Any]:
    from service.sources.sqs.source import Sqs  # noqa: PLC0415  only a task that reads SQS loads boto3

    return Sqs(name, "QUEUE")
