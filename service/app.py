"""The life of a task: connect, check, seed, serve, drain. Nothing else knows the order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import orjson
import structlog
from nats.micro.service import ServiceConfig

from service import __version__, contract, preflight, telemetry
from service.balance import Balance
from service.cancel import cancel
from service.connection import Connection, roundtrip
from service.emf import Emitter
from service.errors import ServiceFault
from service.events import Events
from service.micro import ConcurrentEndpoint, ConcurrentService
from service.seeding import is_seeded, seed
from service.settings import Settings
from service.table import Table, open_table
from service.tracing import Tracing, tracing

log: Final = structlog.get_logger("service.app")

CLOSE_S: Final = 1.0
"""Kept of `SHUTDOWN_TIMEOUT` for closing connections."""


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises `ServiceFault` when the task cannot start or go on, or when the drain left something undone.
    """
    stop = _Stop()
    async with AsyncExitStack() as stack:
        connection = Connection(settings, on_lost=stop.fail)
        stack.push_async_callback(connection.close)
        starting = asyncio.create_task(_start(settings, stack, connection))
        task = await stop.unless_done(starting)
        if task is None:
            log.info("stopped before it served")
            return
        log.info("serving", subject=contract.SUBJECT, id=task.service.id, version=__version__)
        await stop.wait()
        await task.drain(settings.shutdown_timeout - CLOSE_S)


async def _start(settings: Settings, stack: AsyncExitStack, connection: Connection) -> _Task:
    table = await stack.enter_async_context(open_table(settings.ddb_table))
    await connection.open()
    spans = tracing()
    if spans:
        stack.push_async_callback(spans.close, CLOSE_S / 2)
    task = _Task(settings, connection, table, spans)
    stack.push_async_callback(task.events.close)
    metrics = telemetry.Metrics(task.endpoint, table, task.events, lambda: connection.client.stats["reconnects"])
    port = await stack.enter_async_context(telemetry.serve_health(settings.health_port, task.problems, metrics))
    log.info("health and metrics", port=port)
    bucket = await preflight.check(connection.client.jetstream(), table)
    if settings.seed_rows:
        await seed(bucket, table, settings.seed_rows, owner=task.service.id)
        if (await table.read(["1"]))["1"] is None and await is_seeded(bucket):
            log.warning(
                "the seed flag is set and the table has no row 1; to seed again, run "
                "`python -m control_plane seed-flag clear` and restart"
            )
    await task.serve()
    if telemetry.writes_json(settings):
        emitter = Emitter(task.endpoint, table, task.events, task.is_ready)
        stack.push_async_callback(cancel, asyncio.create_task(emitter.run(), name="emf"))
    return task


class _Task:
    """The parts of a running task, wired together."""

    def __init__(self, settings: Settings, connection: Connection, table: Table, spans: Tracing | None) -> None:
        self._client = connection.client
        self._table = table
        self._state = "starting"
        self.events = Events(connection.client)
        self.balance = Balance(spans.read(table.read) if spans else table.read, self.events)
        self.endpoint = ConcurrentEndpoint(
            connection.client,
            self.balance.handle,
            name=contract.ENDPOINT_NAME,
            subject=contract.SUBJECT,
            queue_group=contract.QUEUE_GROUP,
            max_in_flight=settings.max_in_flight,
            tracing=spans,
            metadata={
                "description": "A client's balance, by client_id.",
                "request_schema": orjson.dumps(contract.REQUEST_SCHEMA).decode(),
                "response_schema": orjson.dumps(contract.RESPONSE_SCHEMA).decode(),
            },
        )
        description = "Loyalty balances from DynamoDB."
        self.service = ConcurrentService(
            connection.client,
            ServiceConfig(name=contract.SERVICE_NAME, version=__version__, description=description),
        )

    async def serve(self) -> None:
        await self.events.start()
        await self.service.serve(self.endpoint)
        await roundtrip(self._client)
        self._state = "serving"

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests, answer those in flight, flush their events; raises `ServiceFault` if that fails."""
        self._state = "draining"
        log.info("draining", in_flight=self.endpoint.in_flight, events=self.events.pending)
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self.endpoint.drain()
                await self.balance.lookup.drain()
                if self._client.is_connected:
                    await roundtrip(self._client)
        except TimeoutError:
            log.warning("requests left unanswered", in_flight=self.endpoint.in_flight)
        lost = await self.events.flush(max(0.0, deadline - asyncio.get_running_loop().time()))
        if lost or self.endpoint.in_flight:
            raise ServiceFault(
                f"drained in part: {self.endpoint.in_flight} requests unanswered, {lost} events unacknowledged "
                f"after {timeout_s:g} seconds",
                f"see that stream {contract.STREAM} takes events ({self.events.stalled or 'it does'})",
            )
        log.info("drained", requests=self.endpoint.numbers.finished, events=self.events.numbers.published)

    def is_ready(self) -> bool:
        """What can be known without asking the table."""
        return self._state == "serving" and self._client.is_connected and not self.events.stalled

    async def problems(self) -> Mapping[str, str]:
        problems = {}
        if self._state != "serving":
            problems["service"] = self._state
        if not self._client.is_connected:
            problems["nats"] = "not connected"
        if self.events.stalled:
            problems["events"] = (
                f"{self.events.stalled}; {self.events.pending} waiting, {self.events.numbers.dropped} dropped"
            )
        try:
            await self._table.check()
        except ServiceFault as fault:
            problems["table"] = fault.problem
        return problems


class _Stop:
    """Why the task is to stop: a signal, or a fault. A second signal ends the process at once."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)

    def fail(self, fault: ServiceFault) -> None:
        if not self._stopped.done():
            self._stopped.set_exception(fault)

    async def wait(self) -> None:
        """Raises the fault, if it is one."""
        await self._stopped

    async def unless_done(self, starting: asyncio.Task[_Task]) -> _Task | None:
        """What `starting` makes; None, with `starting` cancelled, when a signal comes first."""
        either: set[asyncio.Future[Any]] = {starting, self._stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            await cancel(starting)
            await self._stopped
            return None
        return await starting

    def _signalled(self, number: signal.Signals) -> None:
        if self._stopped.done():
            os._exit(128 + number)
        log.info("signal", name=signal.Signals(number).name)
        self._stopped.set_result(None)
