"""Drills on what a task depends on: a cluster that loses nodes, a server that is away, a table that misbehaves."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import nats.errors
import orjson
import pytest
from nats.js.api import ClusterInfo
from nats.js.errors import APIError

from control_plane.errors import ProvisioningError
from service.contracts.stream import STREAM
from tests.support.drills.drill import DOCUMENTED, Drill, Probe, answered, stored, traffic, words
from tests.support.dynamodb.faulty import Fault, FaultyDynamoDB, refusal, stall
from tests.support.own_servers import NODES, own_cluster, own_server
from tests.support.world import World, eventually, get, metric, stop, tasks

pytestmark = pytest.mark.xdist_group("drills")


async def stream_cluster(world: World) -> ClusterInfo | None:
    """Where the stream is; None while nobody can say: a node that has just started leaves the question unanswered."""
    try:
        async with asyncio.timeout(1), world.administrator() as admin:
            return (await admin.stream_info(STREAM)).cluster
    except (ProvisioningError, nats.errors.Error, APIError, TimeoutError):
        return None


async def settled(world: World) -> int:
    """The number of the stream's leader, once every node has all of it."""
    found: list[int] = []

    async def look() -> bool:
        cluster = await stream_cluster(world)
        others = (cluster.replicas if cluster else None) or []
        if cluster and cluster.leader and len(others) == NODES - 1:
            found[:] = [int(cluster.leader.rpartition("-")[2])]
            return all(replica.current and not replica.offline for replica in others)
        return False

    await eventually(look, within_s=60, what="a stream on three nodes")
    return found[0]


@pytest.mark.drill(
    "a cluster of three (replicas 3) under load: the stream's leader killed, then a node lost for 30 s",
    "replies go on; no event of an answered request is missing; duplicates are removed",
)
async def test_cluster(world: World, drill: Drill, tmp_path_factory: pytest.TempPathFactory) -> None:
    rate = drill.pick(100, 500)
    async with own_cluster(world, tmp_path_factory.mktemp("cluster")) as (own, cluster):
        first = await settled(own)
        async with tasks(own, 2) as started, traffic(own, rate, timeout_s=2, expected=own.rows()) as load:
            await load.more(rate)
            await cluster.kill(first)
            await load.more(3 * rate)
            await cluster.start(first)
            second = await settled(own)
            await cluster.kill(second)
            lost_s = drill.pick(4, 30)
            lost_at = time.monotonic()
            while time.monotonic() - lost_at < lost_s:
                await load.more(rate)
            await cluster.start(second)
            await settled(own)
            totals = await load.finish()
            answers = await answered(*started)
            retried = sum([await metric(task, "balance_events_retried_total") for task in started])
            await stop(*started)
        events = await own.last_sequence()
    drill.found(
        f"{totals.sent:,} requests, {words(totals.errors) if totals.errors else 'none failed'}, "
        f"longest silence {load.longest_silence_s:.0f} s; {answers:,} answers, {events:,} events, "
        f"{retried:,.0f} sent again"
    )
    assert events == answers >= totals.replies
    assert load.longest_silence_s <= 5
    assert totals.errors.total() < 0.1 * totals.sent


@pytest.mark.drill(
    "nats-server stopped for 20 s",
    "reconnects within 3 s of its return; events that waited arrive; the health page tells the truth meanwhile",
)
async def test_server_away(world: World, drill: Drill, tmp_path_factory: pytest.TempPathFactory) -> None:
    rate = drill.pick(100, 500)
    async with own_server(world, tmp_path_factory.mktemp("own")) as (own, server):
        async with tasks(own, 2) as started, traffic(own, rate, timeout_s=1, expected=own.rows()) as load:
            await load.more(rate)
            await server.stop()

            async def health_says(status: int, problem: str | None) -> bool:
                pages = [await get(f"{task.health_url}/readyz") for task in started]
                problems = [orjson.loads(body).get("problems", {}).get("nats") for _, body in pages]
                return [code for code, _ in pages] == [status] * 2 and problems == [problem] * 2

            await eventually(lambda: health_says(503, "not connected"), what="the truth")
            await asyncio.sleep(drill.pick(1.5, 20.0))
            assert await health_says(503, "not connected")
            await server.start()
            returned_at = time.monotonic()

            async def reconnected() -> bool:
                return all([await metric(task, "balance_nats_reconnects_total") == 1 for task in started])

            await eventually(reconnected, what="two reconnections")
            back_s = time.monotonic() - returned_at
            await load.more(rate)
            await eventually(lambda: health_says(200, None), what="the truth")
            totals = await load.finish()
            answers = await answered(*started)
            await stop(*started)
        events = await own.last_sequence()
    drill.found(
        f"{totals.sent:,} requests, {words(totals.errors)}; back after {back_s:.1f} s; "
        f"{answers:,} answers, {events:,} events"
    )
    assert back_s < 3
    assert events == answers >= totals.replies


def throttled() -> Fault:
    chance = random.Random(7)
    return lambda *_: refusal("ThrottlingException") if chance.random() < 0.3 else None


def garbage() -> Fault:
    from aiohttp import web

    bodies = [b"", b"zz", b"[]", b"{}", b'{"Responses":7}', b"\x00" * 1000]
    return lambda *_: web.Response(body=random.choice(bodies), status=random.choice([200, 200, 400, 500]))


FAULTS = [
    pytest.param(throttled, 0.9, id="throttled 30 %"),
    pytest.param(lambda: stall(10), 0.0, id="stalled for 10 s"),
    pytest.param(None, 0.0, id="refusing connections"),
    pytest.param(garbage, 0.0, id="returning garbage"),
    pytest.param(lambda: stall(0.2), 1.0, id="slow by 200 ms"),
]


@pytest.mark.drill(
    "DynamoDB {}",
    "documented errors within the deadline of 2 s, recovery within 2 s, at most 3 calls for a request",
)
@pytest.mark.parametrize(("fault", "answered_share"), FAULTS)
async def test_dynamodb(
    world: World, proxy: FaultyDynamoDB, fault: Callable[[], Fault] | None, answered_share: float, drill: Drill
) -> None:
    async with tasks(world, 1, **proxy.env) as (task,), world.client() as client:
        probe, after = Probe(client, world.rows()), Probe(client, world.rows())
        proxy.calls.clear()
        async with faulty(proxy, fault), probe.at(drill.pick(50, 200)):
            await asyncio.sleep(drill.pick(5.0 if fault is throttled else 2.5, 10.0))
        recovered_s = await after.until_right(within_s=5)
        calls = len(proxy.calls) / max(1, probe.outcomes.total() + after.outcomes.total())
        await stop(task)
    slowest = max(probe.slowest_s.values())
    drill.found(
        f"{words(probe.outcomes)}; slowest {slowest:.2f} s; recovered after {recovered_s:.2f} s; "
        f"{calls:.2f} calls for a request"
    )
    assert probe.outcomes.keys() <= {"OK", "503 UNAVAILABLE"} <= {"OK", *DOCUMENTED}
    assert probe.outcomes["OK"] >= answered_share * probe.outcomes.total()
    assert slowest < 2 + drill.pick(1.0, 0.3), "the deadline, and what this process adds"
    assert recovered_s < 2
    assert calls <= 3
    await stored(world, probe.outcomes["OK"] + 1)


@asynccontextmanager
async def faulty(proxy: FaultyDynamoDB, fault: Callable[[], Fault] | None) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if fault is None:
            await stack.enter_async_context(proxy.refusing())
        else:
            proxy.fault = fault()
        yield
    proxy.fault = None
