"""Drills on a stream that is slow, changes its leader, or takes no batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import nats.errors
import pytest
from nats.aio.msg import Msg
from nats.js.errors import APIError

from benchmark.load.job import Open
from service.contracts.stream import EVENT_PREFIX, STREAM, STREAM_SUBJECTS
from service.customer.events.events import Events
from service.nats.client import NatsClient
from service.nats.connection import roundtrip
from tests.support.drills.drill import Drill, answered, put_on, stored
from tests.support.own_servers import own_cluster
from tests.support.world import World, eventually, metric, stop, tasks

pytestmark = pytest.mark.xdist_group("drills")

STREAM_RATE = 1000
DEMAND = 1500


@dataclass
class Throttle:
    """Between the publishers and the stream: passes on so many messages a second, as they are and in their order."""

    passed: int = 0
    waiting: int = 0
    idle_s: float = 0.0
    """Time without a message to pass on."""


@asynccontextmanager
async def throttled(world: World, rate: float) -> AsyncIterator[Throttle]:
    """The stream takes other subjects; what comes to its own is passed on to those."""
    throttle, queue = Throttle(), asyncio.Queue[Msg]()
    async with world.administrator() as admin:
        config = (await admin.stream_info(STREAM)).config
        config.subjects = [f"slow.{subject}" for subject in STREAM_SUBJECTS]
        await admin.update_stream(config)

        async def enqueue(msg: Msg) -> None:
            queue.put_nowait(msg)
            throttle.waiting = queue.qsize()

        async def pass_on() -> None:
            due_s = time.monotonic()
            while True:
                asked_s = time.monotonic()
                msg = await queue.get()
                throttle.idle_s += time.monotonic() - asked_s
                due_s = max(due_s + 1 / rate, time.monotonic() - 0.1)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                await admin._nc.publish(f"slow.{msg.subject}", msg.data, reply=msg.reply, headers=msg.headers)
                throttle.passed += 1

        await admin._nc.subscribe(f"{EVENT_PREFIX}*", cb=enqueue, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await roundtrip(admin._nc)
        passing = asyncio.create_task(pass_on())
        try:
            yield throttle
        finally:
            passing.cancel()


@pytest.mark.drill(
    "a stream that takes 1,000 events/s, and 1,500 requests/s for 60 s",
    "every request answered; at least 95 % of what the stream took are distinct events; all of them stored in the end",
)
async def test_slow_stream(world: World, drill: Drill) -> None:
    demand_s = drill.pick(5.0, 60.0)
    async with tasks(world, 1, SHUTDOWN_TIMEOUT="60") as (task,), throttled(world, STREAM_RATE) as throttle:
        async with put_on(world, Open(rate=DEMAND, duration_s=demand_s), expected=world.rows()) as load:
            await load.more(1)
            started_s, passed, idle_s = time.monotonic(), throttle.passed, throttle.idle_s
            totals = await load.finish_by_itself()
            took = throttle.passed - passed
            elapsed_s = time.monotonic() - started_s
            idle = (throttle.idle_s - idle_s) / elapsed_s
            distinct = await world.last_sequence() - passed
        behind = throttle.waiting
        retried = await metric(task, "balance_events_retried_total")
        answers = await answered(task)
        await stop(task)
        drill.found(
            f"{totals.sent:,} requests, {totals.errors.total()} failed; the stream took {took / elapsed_s:,.0f}/s, "
            f"{distinct / took:.1%} of them distinct; {behind} queued before it, {retried:,.0f} sent again"
        )
        assert not totals.errors
        assert distinct > 0.95 * took
        assert idle < 0.1, "the stream is kept busy"
        await stored(world, answers)


async def test_no_event_is_lost_when_the_streams_leader_changes_in_the_middle_of_batches(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with own_cluster(world, tmp_path_factory.mktemp("cluster")) as (own, _):
        async with own.client("service") as client:
            assert isinstance(client, NatsClient)
            events, count = Events(client), 0
            await events.start(batched=True)
            for _ in range(3):
                change = asyncio.create_task(another_leader(own))
                while not change.done():
                    for _ in range(250):
                        events.publish([f"c{count}"], ["{}"])
                        count += 1
                    await asyncio.sleep(0.05)
                await change
            assert await events.flush(30) == 0
            assert (events.stats.published, events.stats.dropped, events.pending) == (count, 0, 0)
            assert events.mode == "by the batch"
            await events.close()
        await stored(own, count)


async def another_leader(world: World) -> None:
    """Have the stream's leader step down until another one leads."""
    first = ""

    async def changed() -> bool:
        nonlocal first
        async with world.administrator() as admin:
            try:
                cluster = (await admin.stream_info(STREAM)).cluster
                leader = (cluster.leader if cluster else "") or ""
                first = first or leader
                if leader and leader == first:
                    await admin._nc.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}", b"", timeout=1)
            except (nats.errors.Error, APIError):
                return False  # being elected
        return leader not in {"", first}

    await eventually(changed, within_s=30, what="another leader")


async def test_a_stream_without_batches_gets_events_one_by_one(world: World) -> None:
    async with world.administrator() as admin:
        config = (await admin.stream_info(STREAM)).config
        config.allow_batched = False
        await admin.update_stream(config)
    async with tasks(world, 1) as (task,):
        async with put_on(world, Open(rate=200, duration_s=1.0), expected=world.rows()) as load:
            totals = await load.finish_by_itself()
        await stop(task)
        assert '"mode":"one by one"' in task.child.log.read_text()
    assert not totals.errors
    await stored(world, totals.replies)
