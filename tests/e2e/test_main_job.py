"""The main job under load, over several clients: nothing lost, nothing twice, and every number true."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import signal
from collections import Counter

import orjson
from nats.aio.msg import Msg

from local.load import ask_all, request_for
from service.contracts import customer as contract
from service.contracts.stream import STREAM
from service.nats.connection import roundtrip
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB
from tests.support.world import World, clients, eventually, metric, statistics, stop, tasks

MALFORMED = [
    b"",
    b"zz",
    b"null",
    b"[]",
    b"{}",
    b'{"client_id":678}',
    b'{"client_id":null}',
    b'{"client_id":""}',
    b'{"client_id":"a.b"}',
    b'{"client_id":"*"}',
    b'{"client_id":"a b"}',
    b'{"client_id":"\\u0000"}',
    b'{"client_id":"' + b"x" * 129 + b'"}',
    b'{"client_id":{"client_id":"1"}}',
    b"\xff\xfe",
    b"[" * 5000,
    b'{"client_id":"1"',
    random.Random(1).randbytes(500_000),
]


async def test_two_thousand_requests_at_concurrency_500(world: World) -> None:
    async with tasks(world, 1) as (task,), clients(world, 4) as asking:
        balances = world.rows()
        tally = await ask_all(
            asking, itertools.islice(itertools.cycle(balances), 2000), concurrency=500, expected=balances
        )
        assert (tally.sent, tally.balances, tally.wrong, tally.errors) == (2000, 2000, [], Counter())
        (stats,) = await statistics(asking[0], 1)
        endpoint = next(each for each in stats["endpoints"] if each["name"] == contract.ENDPOINT_NAME)
        assert (endpoint["num_requests"], endpoint["num_errors"], endpoint["last_error"]) == (2000, 0, "")
        assert endpoint["average_processing_time"] == endpoint["processing_time"] // 2000
        batches = await metric(task, "balance_batch_keys_count")
        assert batches < 1000, "look-ups are coalesced"
        await stop(task)
    assert await world.last_sequence() == 2000


async def test_every_request_is_answered_exactly_once(world: World) -> None:
    async with tasks(world, 3) as started, world.client() as client:
        balances = world.rows()
        inbox = client.new_inbox()
        replies: Counter[str] = Counter()

        async def count(reply: Msg) -> None:
            number = reply.subject.rpartition(".")[2]
            assert reply.data == b'{"balance":%d}' % balances[number]
            replies[number] += 1

        await client.subscribe(f"{inbox}.*", cb=count)
        for client_id in balances:
            await client.publish(contract.SUBJECT, request_for(client_id), reply=f"{inbox}.{client_id}")
        await eventually(lambda: len(replies) == len(balances))
        await stop(*started)
        await roundtrip(client)
        assert set(replies.values()) == {1}
    assert await world.last_sequence() == len(balances)


async def test_malformed_requests_of_every_kind_under_that_load(world: World) -> None:
    async with tasks(world, 2) as started, clients(world, 4) as asking:
        balances = world.rows()

        async def malformed() -> Counter[str]:
            codes: Counter[str] = Counter()
            for payload in itertools.islice(itertools.cycle(MALFORMED), 200):
                reply = await asking[-1].request(contract.SUBJECT, payload, timeout=5)
                assert reply.headers
                assert orjson.loads(reply.data)["error"]
                codes[reply.headers["Nats-Service-Error-Code"]] += 1
            return codes

        async def unknown() -> Counter[str]:
            tally = await ask_all(asking, (f"no-{n}" for n in range(300)), concurrency=50, expected={})
            return tally.errors

        tally, refused, missing = await asyncio.gather(
            ask_all(asking, itertools.islice(itertools.cycle(balances), 2000), concurrency=400, expected=balances),
            malformed(),
            unknown(),
        )
        assert (tally.balances, tally.wrong, tally.errors) == (2000, [], Counter())
        assert refused == {"403": 200}
        assert missing == {"404": 300}
        stats = await statistics(asking[0], 2)
        assert sum(answer["endpoints"][0]["num_requests"] for answer in stats) == 2500
        assert sum(answer["endpoints"][0]["num_errors"] for answer in stats) == 500
        await stop(*started)
    assert await world.last_sequence() == 2000, "errors publish nothing"


async def test_a_drain_under_load_is_clean_every_time(world: World) -> None:
    async with tasks(world, 1, SEED_ROWS="50") as (keeper,), clients(world, 2) as asking:
        balances = world.rows()
        enough = asyncio.Event()

        async def roll() -> None:
            for _ in range(4):
                async with world.task(SEED_ROWS="50") as passing:
                    await asyncio.sleep(0.1)
                    await stop(passing)
            enough.set()

        rolling = asyncio.create_task(roll())
        tally = await ask_all(
            asking, itertools.cycle(balances), concurrency=100, expected=balances, until=enough.is_set
        )
        await rolling
        assert tally.balances == tally.sent
        await stop(keeper)
    assert await world.last_sequence() == tally.sent


async def test_a_request_that_a_task_has_no_room_for_gets_no_responders_at_once(
    world: World, proxy: FaultyDynamoDB
) -> None:
    async with tasks(world.seeded(200), 1, MAX_IN_FLIGHT="50", **proxy.env) as (task,), clients(world, 1) as asking:
        balances = world.rows()
        hold = asyncio.Event()

        async def fault(_action: str, _call: Call) -> None:
            await hold.wait()

        proxy.fault = fault
        asked = asyncio.create_task(ask_all(asking, list(balances)[:200], concurrency=200, expected=balances))

        async def full() -> bool:
            return await metric(task, "balance_requests_in_flight") == 50

        await eventually(full, what="a full task")
        hold.set()
        tally = await asked
        assert (tally.balances, tally.errors) == (50, {"no responders": 150})
        assert await metric(task, "balance_requests_total") == 50, "it looked none of the others up"
        await stop(task)


async def test_a_drain_that_cannot_finish_says_what_is_lost(world: World) -> None:
    async with tasks(world.seeded(1_000), 1, SHUTDOWN_TIMEOUT="3") as (task,), world.client() as client:
        async with world.administrator() as admin:
            await admin.delete_stream(STREAM)
        await client.request(contract.SUBJECT, request_for("678"), timeout=2)
        task.child.signal(signal.SIGTERM)
        async with asyncio.timeout(3):
            assert await task.child.wait() == 1
        assert re.search(r"0 requests unanswered, 1 events unacknowledged after 2\.\d seconds", task.child.last_words())


async def test_a_second_signal_ends_it_at_once(world: World) -> None:
    async with tasks(world.seeded(1_000), 1, SHUTDOWN_TIMEOUT="60") as (task,), world.client() as client:
        async with world.administrator() as admin:
            await admin.delete_stream(STREAM)
        await client.request(contract.SUBJECT, request_for("678"), timeout=2)
        task.child.signal(signal.SIGTERM)
        await eventually(lambda: "draining" in task.child.log.read_text(), what="the drain")
        task.child.signal(signal.SIGTERM)
        async with asyncio.timeout(2):
            assert await task.child.wait() == 128 + signal.SIGTERM


async def test_a_request_without_an_inbox_publishes_nothing(world: World) -> None:
    async with tasks(world, 1) as (task,), world.client() as client:
        for inbox in ("", "customer.balance.999", "$KV.config.seed"):
            await client.publish(contract.SUBJECT, request_for("678"), reply=inbox)

        async def counted() -> bool:
            return await metric(task, "balance_requests_total") == 3

        await eventually(counted)
        await stop(task)
    assert await world.last_sequence() == 0
