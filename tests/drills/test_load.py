"""Drills on one task's endurance: more than it can serve, and a great deal of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import psutil
import pytest
from nats.aio.client import Client

from benchmark.load.job import Closed, Open
from benchmark.load.loops import TIMEOUT
from benchmark.load.transport import NO_RESPONDERS
from benchmark.report.measured import Measured
from control_plane.self_hosted import provider as self_hosted
from local.system import Task
from service.requests.credit import PIECES
from tests.support.drills.drill import Drill, Probe, answered, memory_mib, put_on, stored, words
from tests.support.dynamodb.faulty import FaultyDynamoDB, stall
from tests.support.world import World, eventually, metric, stop, tasks

pytestmark = pytest.mark.xdist_group("drills")

SLOW_S = 0.1
AT_ONCE = 200


@pytest.mark.drill(
    "overload: four times what a task can serve, for 60 s (DynamoDB takes 100 ms, MAX_IN_FLIGHT=200)",
    "goodput above 80 % of the peak; the rest told `no responders` at once; p99 bounded; memory flat",
)
async def test_overload(world: World, proxy: FaultyDynamoDB, drill: Drill) -> None:
    async with tasks(world, 1, MAX_IN_FLIGHT=str(AT_ONCE), **proxy.env) as (task,), world.client() as client:
        expected = world.rows()
        proxy.fault = stall(SLOW_S)
        enough = round(drill.pick(2, 10) * AT_ONCE / SLOW_S)
        async with put_on(world, Closed(requests=enough, concurrency=AT_ONCE), expected=expected) as load:
            peak = Measured.of(await load.finish_by_itself())
        before = memory_mib(task)
        probe = Probe(client, expected)
        flood = Open(rate=4 * peak.throughput, duration_s=drill.pick(3.0, 60.0))
        async with put_on(world, flood, expected=expected) as load, probe.at(20):
            overloaded = await load.finish_by_itself()
        grown = memory_mib(task) - before
        measured = Measured.of(overloaded)
        await stop(task)
    refused_s = probe.slowest_s.get(NO_RESPONDERS, 0.0)
    drill.found(
        f"peak {peak.throughput:,.0f}/s; {overloaded.sent:,} at {flood.rate:,.0f}/s: goodput "
        f"{measured.throughput:,.0f}/s ({measured.throughput / peak.throughput:.0%}), {words(overloaded.errors)}; "
        f"p99 of the accepted {measured.latency.p99_ms:.0f} ms, slowest refusal {refused_s * 1000:.0f} ms; "
        f"memory {grown:+.1f} MiB"
    )
    assert overloaded.errors.keys() == {NO_RESPONDERS}
    assert grown < 8
    await stored(world, peak.replies + measured.replies + probe.outcomes["OK"])
    if drill.full:  # the rest measures the machine, which other tests share in the short form
        assert measured.throughput > 0.8 * peak.throughput
        assert measured.latency.p99_ms < 1000 * 10 * SLOW_S
        assert refused_s < 1.0


@asynccontextmanager
async def operator(world: World) -> AsyncIterator[Client]:
    async with self_hosted.connected(world.nats_url, world.servers.system_creds) as system:
        yield system


async def connection_of_the_task(world: World, system: Client) -> tuple[str, dict[str, Any]]:
    """The server's id, and what it knows of the task's connection."""
    query = orjson.dumps({"subscriptions": True})
    reply = await system.request(f"$SYS.REQ.ACCOUNT.{world.account.public}.CONNZ", query, timeout=5)
    body = orjson.loads(reply.data)
    connections = [found for found in body["data"]["connections"] or [] if found.get("name") == "customer-balance"]
    return body["server"]["id"], connections[0] if connections else {}


async def held(world: World, system: Client, task: Task) -> dict[str, float]:
    """What a leak would make grow."""
    _, connection = await connection_of_the_task(world, system)
    return {
        "memory": memory_mib(task),
        "file descriptors": psutil.Process(task.child.pid).num_fds(),
        "threads": psutil.Process(task.child.pid).num_threads(),
        "tasks": await metric(task, "balance_asyncio_tasks"),
        "subscriptions": len(connection.get("subscriptions_list", ())),
    }


@pytest.mark.drill(
    "a million requests and 60 lost connections to NATS",
    "memory, file descriptors, tasks, subscriptions back to where they were",
)
async def test_no_leak(world: World, drill: Drill) -> None:
    requests, kicks, concurrency = drill.pick((20_000, 5, 100), (1_000_000, 60, 500))
    async with tasks(world, 1) as (task,), operator(world) as system:
        expected = world.rows()
        warm_up = Closed(requests=requests // 10, concurrency=concurrency)
        async with put_on(world, warm_up, expected=expected) as load:
            warm = await load.finish_by_itself()

        async def quiet() -> bool:
            return await metric(task, "balance_events_pending") == 0

        await eventually(quiet)
        before = await held(world, system, task)
        kicked = 0
        async with put_on(
            world, Closed(requests=1 << 40, concurrency=concurrency), timeout_s=1, expected=expected
        ) as load:
            for number in range(kicks):
                await load.more(requests // kicks)
                server, connection = await connection_of_the_task(world, system)
                await system.request(
                    f"$SYS.REQ.SERVER.{server}.KICK", orjson.dumps({"cid": connection["cid"]}), timeout=5
                )
                kicked += 1

                async def reconnected(times: int = number + 1) -> bool:
                    return await metric(task, "balance_nats_reconnects_total") == times

                await eventually(reconnected, what="a reconnection")
            totals = await load.finish()
        await eventually(quiet)
        answers = await answered(task)
        after = await held(world, system, task)
        await stop(task)
    changes = ", ".join(f"{name} {before[name]:.0f} to {after[name]:.0f}" for name in before)
    drill.found(f"{totals.sent:,} requests, {words(totals.errors)}, {kicked} reconnections: {changes}")
    assert totals.errors.keys() <= {TIMEOUT, NO_RESPONDERS}
    assert after["memory"] - before["memory"] < 10
    assert after["file descriptors"] <= before["file descriptors"] + 4
    assert after["subscriptions"] <= before["subscriptions"] + 3 * PIECES, "grants that are used up in part"
    for same in ("threads", "tasks"):
        assert after[same] == before[same], same
    assert answers >= warm.replies + totals.replies
    await stored(world, answers)
