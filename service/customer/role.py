"""The role `customer`: wire its parts together, and open, drain and close them in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import nats.errors
import structlog
from nats.js.errors import APIError
from nats.js.kv import KeyValue
from nats.micro.service import ServiceConfig
from prometheus_client.core import Metric

from service import __version__
from service.contracts import customer as contract
from service.contracts.cloudwatch import METRICS_DIMENSION, METRICS_NAMESPACE
from service.contracts.stream import EVENT_PREFIX, STREAM
from service.customer import metrics
from service.customer.backlog import FIGURES_LEFT_OUT, BacklogReader
from service.customer.clients import Clients
from service.customer.endpoints.adjust import ADJUSTED_BYTES, Adjust
from service.customer.endpoints.balance import Balance
from service.customer.endpoints.create import Create
from service.customer.endpoints.get import Get
from service.customer.endpoints.statement import Statement
from service.customer.events.events import Events
from service.customer.events.publisher import BATCHED, EVENT_BYTES, SINGLE
from service.customer.ledger.tables import Ledger
from service.customer.metrics import Adjusting
from service.customer.settings import CustomerSettings
from service.customer.store.seeding import is_seeded, seed
from service.dynamodb.errors import TableUnavailableError
from service.dynamodb.table import Table
from service.nats import jetstream, permissions
from service.nats.connection import Connection, confirm
from service.nats.fit import NS
from service.requests.micro import ConcurrentService, Endpoint
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.errors import ServiceError
from service.runtime.logs import writes_json
from service.runtime.process import CLOSE_S, Stop
from service.runtime.role import Need, Skipped
from service.runtime.telemetry.emf import Figures
from service.runtime.telemetry.tracing import tracing

log: Final = structlog.get_logger("service.customer")

FURTHER_LOOKS: Final = 3
"""More read attempts: when many tasks start at once, CPU or DynamoDB may be slow for longer than one waits."""


class Customer:
    """Answers requests about a client over NATS from DynamoDB, and publishes each balance as an event."""

    SETTINGS: ClassVar = CustomerSettings

    def __init__(self, settings: CustomerSettings, stop: Stop) -> None:
        self._settings = settings
        self._state = "starting"
        self._made_s = time.monotonic()
        self._connection = Connection(
            settings, name="customer-balance", inbox_prefix=contract.INBOX_PREFIX, on_lost=stop.fail
        )
        self._nc = self._connection.nc
        self._tracing = tracing()
        self._table = Table(settings.ddb_table, settings.ddb_key, "DDB_TABLE")
        self._events = Events(self._nc)
        self._clients = Clients(self._table, self._tracing)
        self._ledger: Ledger | None = None
        self._adjust: Adjust | None = None
        if settings.adjustments_table:
            self._ledger = Ledger(
                settings.ddb_table, settings.adjustments_table, settings.attributes, self._tracing
            )  # fmt: skip
            self._adjust = Adjust(self._ledger, self._table, self._events)
        self._service = ConcurrentService(
            self._nc,
            ServiceConfig(
                name=contract.SERVICE_NAME, version=__version__, description="Loyalty balances from DynamoDB."
            ),
            (
                Balance(self._clients, self._events, settings.ddb_balance).endpoint,
                Get(self._clients, settings.ddb_balance).endpoint,
                Create(self._table, settings.attributes).endpoint,
                *self._of_adjustments(),
            ),
            max_in_flight=settings.max_in_flight,
            tracing=self._tracing,
            facts=self._facts,
        )
        self._bucket: KeyValue
        self._batched = False
        """Whether the stream takes batches."""
        self._backlog = BacklogReader(self._nc)
        self._watching: asyncio.Task[None] | None = None

    def _of_adjustments(self) -> Iterator[Endpoint]:
        if self._ledger and self._adjust:
            yield self._adjust.endpoint
            yield Statement(self._ledger, self._table).endpoint

    def needs(self) -> Sequence[Need]:
        return (
            Need(f"NATS at {self._settings.nats_shown}", self._connection.open),
            self._connection.steady(Need("permissions", self._look_at_permissions)),
            self._connection.steady(Need(f"stream {STREAM}", self._look_at_stream)),
            self._connection.steady(Need(f"bucket {contract.BUCKET}", self._look_at_bucket)),
            Need(f"table {self._table.name}", self._look_at_table),
            Need("adjustments", self._look_at_adjustments),
        )

    async def start(self) -> None:
        if self._settings.seed_rows:
            await seed(self._bucket, self._table, self._settings.seed_rows, self._service.id, self._settings.attributes)
            if await self._row_1_is_missing():
                log.warning(
                    "the seed flag is set and the table has no row 1; to seed again, run "
                    "`python -m control_plane seed-flag clear` and restart"
                )
        await self._events.start(batched=self._batched)
        await self._service.serve()
        await confirm(self._nc)
        self._state = "serving"
        log.info("serving", subject=contract.SUBJECT, id=self._service.id, version=__version__)
        if writes_json(self._settings):
            self._watching = background(self._backlog.run(), "backlog")

    async def drain(self, timeout_s: float) -> None:
        """Stop taking requests, answer those in flight, and flush their events.

        Raise `ServiceError` if any request or event is left after `timeout_s` seconds.
        """
        self._state = "draining"
        log.info("draining", in_flight=self._service.in_flight, events=self._events.pending)
        started_s = asyncio.get_running_loop().time()
        deadline = started_s + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._service.drain()
                await self._clients.drain()
                if self._nc.is_connected or self._nc.pending_data_size:
                    await confirm(self._nc)
        except TimeoutError:
            if self._service.in_flight:
                log.warning("requests left unanswered", in_flight=self._service.in_flight)
        lost = await self._events.flush(max(0.0, deadline - asyncio.get_running_loop().time()))
        if lost or self._service.in_flight:
            raise ServiceError(
                f"drained in part: {self._service.in_flight} requests unanswered, {lost} events unacknowledged "
                f"after {asyncio.get_running_loop().time() - started_s:.1f} seconds",
                f"see that stream {STREAM} takes events ({self._events.stalled or 'it does'})",
            )
        finished = sum(stats.finished for stats in self._service.requests.values())
        log.info("drained", requests=finished, events=self._events.stats.published)

    async def close(self) -> None:
        if self._watching:
            await cancel(self._watching)
        await self._events.close()
        await self._tracing.close(CLOSE_S / 2)
        await self._connection.close()
        self._table.close()
        if self._ledger:
            self._ledger.close()

    async def problems(self) -> Mapping[str, str]:
        found = dict(self._known_problems())
        try:
            self._table.open()
            await self._table.check()
        except ServiceError as error:
            found["table"] = error.problem
        return found

    def _known_problems(self) -> Mapping[str, str]:
        """Return what prevents answers to requests, without asking the table. Waiting events do not count."""
        found = {}
        if self._state != "serving":
            found["service"] = self._state
        if not self._nc.is_connected:
            found["nats"] = "not connected"
        if self._table.problem:
            found["table"] = self._table.problem
        return found

    def _facts(self) -> Mapping[str, Any]:
        """Return this task's facts for `$SRV.STATS`, which an operator can read from anywhere."""
        problems = self._known_problems()
        return {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._made_s, 1),
            "ready": not problems,
            "problems": problems,
            "time_without_credit": round(self._service.credit.recent_share_without(), 4),
            "turned_away": self._service.credit.turned_away,
            "events": self._events.mode,
            "events_stalled": self._events.stalled,
            "events_pending": self._events.pending,
            "events_dropped": self._events.stats.dropped,
        }

    async def remarks(self) -> Mapping[str, str]:
        return {"events": f"waiting: {self._events.stalled}"} if self._events.stalled else {}

    def metrics(self) -> Iterator[Metric]:
        return metrics.families(self._service, self._table, self._events, self._nc, self._adjusting())

    def _adjusting(self) -> Adjusting | None:
        return (self._adjust.ledger.stats, self._adjust.tills.stats) if self._adjust else None

    def figures(self) -> Figures:
        minute = metrics.Minute(self._service, self._table, self._events, self._adjusting())
        backlog = self._backlog
        return Figures(
            METRICS_NAMESPACE,
            (METRICS_DIMENSION, self._table.name),
            lambda: {**minute.figures(serving=self._is_serving()), **backlog.figures()},
        )

    def _is_serving(self) -> bool:
        """Return whether this task serves, as far as is known without asking the table."""
        return self._state == "serving" and self._nc.is_connected

    async def _look_at_permissions(self) -> str:
        self._connection.jetstream  # noqa: B018  raises Skipped without a connection
        publish = [subject for subject in contract.NEEDED if not subject.startswith("_")]
        publish += contract.NEEDED_TO_ADJUST if self._adjust else ()
        subscribe = contract.SUBSCRIBE if self._adjust else contract.SUBSCRIBED
        given = await permissions.look(self._nc, contract.USER, publish, subscribe)
        lacking = [subject for subject in contract.FIGURES if not permissions.allows(given.get("publish"), subject)]
        return f"without {', '.join(lacking)}: {FIGURES_LEFT_OUT}" if lacking else ""

    async def _look_at_stream(self) -> str:
        stream = await jetstream.check_stream(
            self._connection.jetstream,
            STREAM,
            (f"{EVENT_PREFIX}*", *(contract.NEEDED_TO_ADJUST if self._adjust else ())),
            size=ADJUSTED_BYTES if self._adjust else EVENT_BYTES,
            requests=contract.REQUESTS,
        )
        if self._adjust:
            self._adjust.forgotten_s = (stream.get("duplicate_window") or 0) / NS
        self._batched = bool(stream.get("allow_batched"))
        return f"which acknowledges events {BATCHED if self._batched else SINGLE}"

    async def _look_at_bucket(self) -> str:
        self._bucket = await jetstream.open_bucket(
            self._connection.jetstream, contract.BUCKET, (contract.SEED_KEY, contract.SEED_LEASE_KEY)
        )
        try:
            return "the seed flag is set" if await is_seeded(self._bucket) else "no seed flag: the first task will seed"
        except (nats.errors.Error, APIError) as error:
            raise jetstream.explain(f"key {contract.SEED_KEY} of bucket {contract.BUCKET}", error) from None

    async def _look_at_table(self) -> str:
        self._table.open()
        for _ in range(FURTHER_LOOKS):
            if not isinstance(await self._table.get("1"), TableUnavailableError):
                break
        await self._table.check()
        return "no row 1" if await self._row_1_is_missing() else "row 1 is there"

    async def _look_at_adjustments(self) -> str:
        if self._ledger is None:
            unserved = f"{contract.ADJUST_SUBJECT} and {contract.STATEMENT_SUBJECT}"
            raise Skipped(f"ADJUSTMENTS_TABLE is not set, so {unserved} are not served")
        self._ledger.open()
        await self._ledger.check(1 + FURTHER_LOOKS)
        return f"table {self._ledger.name}"

    async def _row_1_is_missing(self) -> bool:
        return await self._table.get("1") is None
