"""What operators see: figures of that minute, and a task's state in its statistics."""

from __future__ import annotations

import asyncio

from nats.micro.service import ServiceConfig

from service import __version__
from service.customer.events.events import Events
from service.customer.ledger.tables import LedgerStats
from service.customer.ledger.tills import TillStats
from service.customer.metrics import Minute
from service.dynamodb.table import Table
from service.nats.client import NatsClient
from service.requests.micro import ConcurrentService
from service.runtime.telemetry.tracing import NoTracing
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal, stall
from tests.support.world import World, metric, statistics

ONE = b'{"client_id":"1"}'


async def test_what_was_counted_in_one_minute_is_not_counted_in_the_next() -> None:
    nc, table = NatsClient(lambda _: None, lambda: None), Table("balances", "id", "DDB_TABLE")
    config = ServiceConfig(name="customer", version="1.0.0", description="")
    service = ConcurrentService(nc, config, (), max_in_flight=1, tracing=NoTracing())
    events = Events(nc)
    minute = Minute(service, table, events)
    seen = []
    for dropped, keys in ((3, 10), (0, 0), (2, 4)):
        events.stats.dropped += dropped
        if keys:
            table.stats.batch_keys.observe(keys)
        figures = minute.figures(serving=True)
        seen.append((figures["EventsDropped"][0], figures["BatchSize"][0]))
    assert seen == [(3, 10), (0, 0), (2, 4)]


async def test_conflicts_and_unknown_outcomes_of_a_minute_are_figures() -> None:
    nc, table = NatsClient(lambda _: None, lambda: None), Table("balances", "id", "DDB_TABLE")
    config = ServiceConfig(name="customer", version="1.0.0", description="")
    service = ConcurrentService(nc, config, (), max_in_flight=1, tracing=NoTracing())
    tills = TillStats()
    minute = Minute(service, table, Events(nc), (LedgerStats(), tills))
    seen = []
    for conflicts, unknown in ((3, 1), (0, 0), (2, 4)):
        tills.conflicts += conflicts
        tills.unknown += unknown
        figures = minute.figures(serving=True)
        seen.append((figures["AdjustmentConflicts"], figures["AdjustmentsUnknown"]))
    assert seen == [((3, "Count"), (1, "Count")), ((0, "Count"), (0, "Count")), ((2, "Count"), (4, "Count"))]
    assert figures["INSUFFICIENT_BALANCE"] == (0, None), "in the line, and no metric that is paid for"


async def test_operators_read_a_task_in_its_statistics(world: World, proxy: FaultyDynamoDB) -> None:
    """From anywhere: nothing else reaches a task on Fargate."""
    async with world.task(MAX_IN_FLIGHT="4", **proxy.env) as task, world.client() as client:
        (stats,) = await statistics(client, 1)
        data = stats["endpoints"][0]["data"]
        assert data.pop("uptime_s") > 0
        assert data == {
            "in_flight": 0, "version": __version__, "ready": True, "problems": {}, "time_without_credit": 0.0,
            "turned_away": 0,
            "events": "by the batch", "events_stalled": None, "events_pending": 0, "events_dropped": 0,
        }  # fmt: skip
        proxy.fault = stall(0.5)
        asked = [asyncio.create_task(client.request("customer.balance", ONE, timeout=3)) for _ in range(4)]
        await asyncio.gather(*asked)
        proxy.fault = lambda *_: refusal("AccessDeniedException")
        await client.request("customer.balance", ONE, timeout=3)
        (stats,) = await statistics(client, 1)
        data = stats["endpoints"][0]["data"]
        assert 0 < data["time_without_credit"] < 1, "it was full for half a second"
        assert (data["ready"], list(data["problems"])) == (False, ["table"])
        assert 0.3 < await metric(task, "balance_without_credit_seconds_total") < 5
        proxy.fault = None
        await client.request("customer.balance", ONE, timeout=3)
        (stats,) = await statistics(client, 1)
        assert stats["endpoints"][0]["data"]["ready"]
