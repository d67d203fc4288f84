"""Drills on the archive: each event is one row and none is missing, whatever DynamoDB, NATS and the tasks do."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats.errors
import pytest
from aiohttp import web
from nats.js.errors import APIError

from control_plane.desired import ADMINISTRATOR
from local.servers import dynamodb
from local.system import Task
from service.contracts import archive as contract
from service.contracts.stream import EVENT_PREFIX, STREAM
from service.nats.client import NatsClient, header_block
from service.nats.connection import roundtrip
from tests.support.archive import ArchiveWorld, make_archive
from tests.support.drills.drill import Drill, memory_mib
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, answer, refusal, stall
from tests.support.own_servers import own_cluster, own_server
from tests.support.world import DRILL_S, World, eventually, metric

pytestmark = [pytest.mark.xdist_group("drills"), pytest.mark.timeout(600)]

LARGE_BYTES = 390 * 1024
MEMORY_MIB = 120
STUCK_S = 3.0 * contract.ACK_WAIT_S
"""What a killed task held comes again after ack_wait, and until then the backlog may not move."""


@pytest.fixture
async def archive(world: World, proxy: FaultyDynamoDB) -> AsyncIterator[ArchiveWorld]:
    """Its tasks reach DynamoDB through the proxy."""
    async with make_archive(world) as archive:
        archive.env = proxy.env
        yield archive


def writes(call: Call) -> bool:
    return "RequestItems" in call


async def emptied(archive: ArchiveWorld, within_s: float = 60) -> float:
    """Wait for an empty backlog; the seconds that it took."""
    began = time.monotonic()
    await eventually(archive.is_archived, within_s=within_s, what="an empty backlog")
    return time.monotonic() - began


async def answers(archive: ArchiveWorld) -> bool:
    """Whether the consumer can be read: a cluster without a leader is silent, or says so."""
    try:
        await archive.backlog()
    except (nats.errors.TimeoutError, APIError):
        return False
    return True


async def killed(task: Task) -> None:
    task.child.signal(signal.SIGKILL)
    await task.child.wait()


@asynccontextmanager
async def watched_memory(tasks: list[Task]) -> AsyncIterator[list[float]]:
    """The most that any of them took, in MiB: the last entry."""
    most = [0.0]

    async def watch() -> None:
        while True:
            running = [task for task in tasks if task.child.process.returncode is None]
            most.append(max([most[-1], *map(memory_mib, running)]))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    try:
        yield most
    finally:
        watching.cancel()


@pytest.mark.drill(
    "archive: DynamoDB throttles 30 %, half-processes 20 %, answers 500 after writing 10 %",
    "one row for each event; the backlog goes down all the while",
)
async def test_a_dynamodb_that_throttles(archive: ArchiveWorld, proxy: FaultyDynamoDB, drill: Drill) -> None:
    count = drill.pick(2_000, 20_000)
    await archive.publish(count)
    dice = random.Random(15)

    async def fault(_: str, call: Call) -> web.Response | None:
        if not writes(call):
            return None
        chance = dice.random()
        if chance < 0.3:
            return refusal("ThrottlingException")
        if chance < 0.4:
            await asyncio.to_thread(archive.engine().batch_write_item, RequestItems=call["RequestItems"])
            return refusal("InternalServerError", 500)
        if chance < 0.6:
            puts = call["RequestItems"][archive.table]
            half, left = puts[::2], puts[1::2]
            await asyncio.to_thread(archive.engine().batch_write_item, RequestItems={archive.table: half})
            return answer({"UnprocessedItems": {archive.table: left} if left else {}})
        return None

    proxy.fault = fault
    async with archive.task() as task:
        took_s = await emptied(archive, within_s=drill.pick(30, 240))
        errors = await metric(task, "archive_write_errors_total")
        drill.found(f"{count:,} events in {took_s:.0f} s, {errors:,.0f} calls failed or left rows")
    assert errors > 0.3 * count / 25
    assert archive.sequences() == list(range(1, count + 1))


@pytest.mark.drill(
    "archive: DynamoDB answers nothing for 10 s, with an ack_wait of 2 s",
    "nothing is delivered twice: the task extends what it holds; one row for each event",
)
async def test_a_dynamodb_that_stalls(archive: ArchiveWorld, proxy: FaultyDynamoDB, drill: Drill) -> None:
    stall_s = drill.pick(3.0, 10.0)
    await archive.shorten_ack_wait()
    await archive.publish(1_000)
    release = asyncio.Event()

    async def fault(_: str, call: Call) -> None:
        if writes(call):
            await release.wait()

    proxy.fault = fault
    async with archive.task():
        await eventually(lambda: any(writes(call) for _, call in proxy.calls), what="a write")
        await asyncio.sleep(stall_s)
        info = await archive.admin.consumer_info(STREAM, contract.CONSUMER)
        release.set()
        took_s = await emptied(archive)
    drill.found(f"{info.num_redelivered} delivered twice; the backlog was gone {took_s:.1f} s after the stall")
    assert info.num_redelivered == 0
    assert archive.sequences() == list(range(1, 1_001))


@pytest.mark.drill(
    "archive: DynamoDB refuses an item for good (410 KB; a key of 2,100 bytes)",
    "it is a dead letter with the reason, its neighbours are rows",
)
async def test_an_item_that_is_refused(archive: ArchiveWorld, drill: Drill) -> None:
    archive.env = {}
    large = b"x" * (410 * 1024)
    await archive.publish(20)
    await archive.publish_all([("customer.balance.big", large, None), (f"customer.balance.{'k' * 2100}", b"{}", None)])
    await archive.publish(20, first=20)
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    assert archive.sequences() == [*range(1, 21), *range(23, 43)]
    dead = (await archive.admin.stream_info(contract.DEAD_STREAM)).state.messages
    letter = await archive.admin.get_msg(contract.DEAD_STREAM, 1)
    assert letter.headers is not None
    drill.found(f"40 rows, {dead} letters: {letter.headers['Archive-Reason']}")
    assert dead == 2
    assert letter.data == large
    assert letter.headers["Archive-Client"] == "big"
    assert letter.headers["Archive-Sequence"] == "21"
    assert "size" in letter.headers["Archive-Reason"].lower()


@pytest.mark.drill(
    "archive: a task is killed between writing and acknowledging, twice",
    "one row for each event, none missing",
)
async def test_a_kill_between_write_and_acknowledgement(
    archive: ArchiveWorld, proxy: FaultyDynamoDB, drill: Drill
) -> None:
    count = drill.pick(600, 20_000)
    await archive.shorten_ack_wait()
    await archive.publish(count)
    written = asyncio.Event()

    async def after_writing(_: str, call: Call) -> web.Response | None:
        """The rows are written; the task never learns it."""
        if writes(call):
            await asyncio.to_thread(archive.engine().batch_write_item, RequestItems=call["RequestItems"])
            written.set()
            await asyncio.sleep(60)
        return None

    proxy.fault = after_writing
    for _ in range(2):
        async with archive.task() as task:
            await asyncio.wait_for(written.wait(), 20)
            await killed(task)
        written.clear()
    before = len(archive.sequences())
    proxy.fault = None
    async with archive.task(), archive.task():
        took_s = await emptied(archive)
    drill.found(f"{before} rows were written and not acknowledged; {count:,} rows {took_s:.1f} s after two tasks began")
    assert before
    assert archive.sequences() == list(range(1, count + 1))


@pytest.mark.drill(
    "archive: two tasks hold the same messages, one of them frozen beyond ack_wait (2 s)",
    "both write them, each event is one row",
)
async def test_two_tasks_hold_the_same_messages(archive: ArchiveWorld, proxy: FaultyDynamoDB, drill: Drill) -> None:
    await archive.shorten_ack_wait()
    await archive.publish(200)
    release = asyncio.Event()

    async def hold(_: str, call: Call) -> None:
        if writes(call):
            await release.wait()

    proxy.fault = hold
    async with archive.task() as first:

        async def holds_all() -> bool:
            return await metric(first, "archive_held") == 200

        await eventually(holds_all, what="all messages at one task")
        first.child.signal(signal.SIGSTOP)
        try:
            proxy.fault = None
            async with archive.task() as second:
                took_s = await emptied(archive)
                again = await metric(second, "archive_rows_total")
        finally:
            first.child.signal(signal.SIGCONT)
        release.set()

        async def wrote_all() -> bool:
            return await metric(first, "archive_rows_total") >= 200

        await eventually(wrote_all, what="the rows of the one that was frozen")
        twice = await metric(first, "archive_rows_total") + again - 200
    drill.found(f"the backlog was gone {took_s:.1f} s after the second began; {twice:.0f} of 200 rows written again")
    assert again
    assert archive.sequences() == list(range(1, 201))


@pytest.mark.drill(
    "archive: nats-server is stopped and started again while a task archives",
    "the task goes on by itself; one row for each event",
)
async def test_the_broker_restarts(world: World, proxy: FaultyDynamoDB, drill: Drill, tmp_path: Path) -> None:
    count = drill.pick(2_000, 20_000)
    async with own_server(world, tmp_path / "nats") as (own, server), make_archive(own) as archive:
        archive.env = proxy.env
        await archive.shorten_ack_wait()
        await archive.publish(count)
        proxy.fault = stall(0.1)
        async with archive.task() as task:
            await eventually(lambda: len(proxy.calls) > 10, what="writes")
            await server.stop()
            await server.start()
            proxy.fault = None
            async with own.administrator() as archive.admin:
                took_s = await emptied(archive, within_s=drill.pick(60, 240))
                info = await archive.admin.consumer_info(STREAM, contract.CONSUMER)
            rows = await metric(task, "archive_rows_total")
    drill.found(
        f"{count:,} rows {took_s:.1f} s after the restart, {rows - count:,.0f} of them written again; "
        f"{info.num_redelivered} to be delivered again"
    )
    assert archive.sequences() == list(range(1, count + 1))


@pytest.mark.drill(
    "archive: the node of three that leads the stream is killed while a task archives",
    "the task goes on by itself; one row for each event",
)
async def test_a_node_of_three_is_lost(world: World, proxy: FaultyDynamoDB, drill: Drill, tmp_path: Path) -> None:
    if not drill.full:
        pytest.skip("three servers that elect a leader take their time: make drill")
    count = 20_000
    async with own_cluster(world, tmp_path / "cluster") as (own, cluster), make_archive(own) as archive:
        archive.env = proxy.env
        await archive.shorten_ack_wait()
        await archive.publish(count)
        leads = (await archive.admin.stream_info(STREAM)).cluster
        assert leads
        assert leads.leader
        number = int(leads.leader.rpartition("-")[2])
        urls = own.nats_url.split(",")
        proxy.fault = stall(0.1)
        async with archive.task(NATS_URL=",".join([urls[number], *urls])) as task:
            await eventually(lambda: len(proxy.calls) > 10, what="writes")
            await cluster.kill(number)
            proxy.fault = None
            left = own.at(",".join(url for url in urls if url != urls[number]))
            async with left.administrator() as archive.admin:
                killed_s = time.monotonic()
                await eventually(lambda: answers(archive), within_s=30, what="a new leader")
                await emptied(archive, within_s=120)
                took_s = time.monotonic() - killed_s
            rows = await metric(task, "archive_rows_total")
    drill.found(f"{count:,} rows {took_s:.1f} s after the kill, {rows - count:,.0f} of them written again")
    assert archive.sequences() == list(range(1, count + 1))


@pytest.mark.drill(
    "archive: events of 390 KB",
    f"one row for each event; the task takes at most {MEMORY_MIB} MiB",
)
async def test_large_events(archive: ArchiveWorld, drill: Drill) -> None:
    archive.env = {}
    count = drill.pick(60, 300)
    for first in range(0, count, 20):
        await archive.publish(20, first=first, body=b"x" * LARGE_BYTES)
    async with archive.task() as task, watched_memory([task]) as most:
        took_s = await emptied(archive, within_s=drill.pick(30, 240))
    drill.found(f"{count:,} events in {took_s:.0f} s, at most {most[-1]:.0f} MiB")
    assert archive.sequences() == list(range(1, count + 1))
    assert most[-1] <= MEMORY_MIB


@pytest.mark.drill(
    "archive: the stream is full, and discards events before they are archived",
    "each event that was left is one row, each that was discarded is counted",
)
async def test_the_stream_is_full(archive: ArchiveWorld, drill: Drill) -> None:
    await archive.limit(STREAM, 20_000)
    await archive.publish(500)
    first = (await archive.admin.stream_info(STREAM)).state.first_seq
    async with archive.task() as task:
        await emptied(archive)
        counted = await metric(task, "archive_discarded_total")
    drill.found(f"{first - 1} of 500 discarded, {counted:.0f} counted, {len(archive.rows())} rows")
    assert first > 100
    assert counted == first - 1
    assert archive.sequences() == list(range(first, 501))


@pytest.mark.timeout(DRILL_S)  # an engine of 3,500 rows/s takes five minutes, a busy machine longer
@pytest.mark.drill(
    "archive: 1,000,000 events by three tasks, one of them killed twice",
    f"exactly 1,000,000 rows; memory flat, at most {MEMORY_MIB} MiB a task",
)
async def test_a_million_events(archive: ArchiveWorld, drill: Drill) -> None:
    if not drill.full:
        pytest.skip("it takes minutes: make drill")
    archive.env = {}
    count = 1_000_000
    await publish_many(archive.world, count)

    async def all_there() -> bool:
        return await archive.backlog() == count

    await eventually(all_there, within_s=60, what="all events in the stream")
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        tasks = [await stack.enter_async_context(archive.task()) for _ in range(3)]
        async with watched_memory(tasks) as most:
            early = 0.0
            for kill_at in (700_000, 400_000):
                await until_below(archive, kill_at)
                early = early or most[-1]
                await killed(tasks[0])
                tasks[0] = await stack.enter_async_context(archive.task())
            await until_below(archive, 1)
    took_s = time.monotonic() - began
    rows = await asyncio.to_thread(count_rows, archive)
    drill.found(
        f"{rows:,} rows in {took_s:.0f} s ({count / took_s:,.0f}/s); at most {most[-1]:.0f} MiB a task, "
        f"{early:.0f} MiB after 300,000 events"
    )
    assert rows == count
    assert most[-1] <= MEMORY_MIB


async def until_below(archive: ArchiveWorld, backlog: int) -> None:
    """Fails when the backlog has not fallen for `STUCK_S`, however long it takes in all."""
    least, moved_s = await archive.backlog(), time.monotonic()
    while least >= backlog:
        await asyncio.sleep(0.5)
        now = await archive.backlog()
        if now < least:
            least, moved_s = now, time.monotonic()
        assert time.monotonic() - moved_s < STUCK_S, f"{least:,} messages, as many as {STUCK_S:.0f} s ago"


async def publish_many(world: World, count: int) -> None:
    async with world.client(ADMINISTRATOR.name) as client:
        assert isinstance(client, NatsClient)
        for number in range(count):
            headers = header_block({"Nats-Msg-Id": f"many.{number}"})
            client.post(f"{EVENT_PREFIX}{number % 1000}", b'{"balance":%d}' % number, headers=headers)
            if number % 2_000 == 0:
                await roundtrip(client)
        await roundtrip(client)


def count_rows(archive: ArchiveWorld) -> int:
    """Each event has a key of its own: as many rows as events are a row for each."""
    pages = (
        archive.engine()
        .get_paginator("scan")
        .paginate(TableName=archive.table, Select="COUNT", PaginationConfig={"PageSize": dynamodb.PAGE_ROWS})
    )
    return sum(page["Count"] for page in pages)
