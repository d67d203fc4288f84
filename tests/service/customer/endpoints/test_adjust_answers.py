"""What is told of an adjustment, and published, when an answer is lost, is another call's, or comes late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson
from aiohttp import web

from local.servers import dynamodb
from service.contracts.stream import STREAM
from tests.service.customer.endpoints.test_adjust import execute, of_another_task, writes
from tests.support.drills.drill import stored
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, answer, refusal
from tests.support.ledger.adjusting import adjust
from tests.support.world import World, metric


async def test_a_lost_connection_makes_the_outcome_unknown(world: World, proxy: FaultyDynamoDB) -> None:
    """The first call was executed, on a kept connection that then ended; the others are throttled."""
    world.put_rows({"c": 100, "other": 1})
    env = {**await world.with_adjustments(), **proxy.env}

    async def fault(action: str, call: Call) -> web.Response | None:
        if action != "TransactWriteItems":
            return None
        if len(writes(proxy)) > 1:
            return refusal("ThrottlingException")
        execute(world, call)
        assert proxy.runner.server
        for connection in proxy.runner.server.connections:
            if connection.transport:
                connection.transport.abort()
        await asyncio.sleep(10)
        return None

    async with world.task(**env) as task, world.client("teller") as teller:
        assert (await adjust(teller, "other", 1, "opens the connection"))[0] == "OK"
        proxy.calls.clear()
        proxy.fault = fault
        code, body = await adjust(teller, "c", -10, "a")
        assert (code, "outcome is unknown" in orjson.loads(body)["error"]) == ("503 UNAVAILABLE", True)
        assert await metric(task, "balance_adjustments_unknown_total") == 1
        assert len({orjson.dumps(call) for call in writes(proxy)}) == 1, "the same bytes each time"
        proxy.fault = None
        assert (await adjust(teller, "c", -10, "a"))[1].endswith(b'"balance":90}')
    assert world.rows()["c"] == 90


async def test_an_answer_to_another_call_is_not_taken_for_a_write(world: World, proxy: FaultyDynamoDB) -> None:
    world.put_rows({"c": 100})
    env = {**await world.with_adjustments(), **proxy.env}
    proxy.fault = lambda action, _: (
        answer({"Responses": {world.table: []}, "UnprocessedKeys": {}})
        if action == "TransactWriteItems" and len(writes(proxy)) == 1 else None
    )  # fmt: skip
    async with world.task(**env), world.client("teller") as teller:
        assert (await adjust(teller, "c", -10, "a"))[0] == "OK"
    assert (len(writes(proxy)), len(world.ledger()), world.rows()["c"]) == (2, 1, 90)


async def test_a_repeat_publishes_no_balance_that_is_older_than_the_last(world: World) -> None:
    """The task that made the first adjustment ended before it published."""
    world.put_rows({"c": 100})
    env = await world.with_adjustments()
    call = of_another_task(world, "c", 100, 0, -90, "first")
    call["TransactItems"][1]["Put"]["Item"]["at"] = {"S": datetime.now(UTC).isoformat()}
    execute(world, call)
    async with world.task(**env), world.client("teller") as teller:
        assert (await adjust(teller, "c", 5, "second"))[1].endswith(b'"balance":15}')
        await adjust(teller, "c", -90, "first")
        await stored(world, 3)
        execute(world, of_another_task(world, "c", 15, 1, 5, "third"))
        assert (await adjust(teller, "c", 1, "fourth"))[1].endswith(b'"balance":21}')
        await stored(world, 5)
        assert await events(world, 5) == [
            ("customer.balance.c", 15), ("customer.adjusted.c", 15), ("customer.adjusted.c", 10),
            ("customer.balance.c", 21), ("customer.adjusted.c", 21),
        ]  # fmt: skip


async def test_a_repeat_of_the_last_adjustment_publishes_its_balance_too(world: World) -> None:
    world.put_rows({"c": 100})
    env = await world.with_adjustments()
    call = of_another_task(world, "c", 100, 0, -90, "first")
    call["TransactItems"][1]["Put"]["Item"]["at"] = {"S": datetime.now(UTC).isoformat()}
    execute(world, call)
    async with world.task(**env), world.client("teller") as teller:
        await adjust(teller, "c", -90, "first")
        await stored(world, 2)
        assert await events(world, 2) == [("customer.balance.c", 10), ("customer.adjusted.c", 10)]


async def test_a_repeat_is_answered_when_the_row_of_its_client_is_odd(world: World) -> None:
    world.put_rows({"c": 100})
    env = await world.with_adjustments()
    async with world.client("teller") as teller:
        async with world.task(**env):
            made = await adjust(teller, "c", -10, "a")
        engine = dynamodb.client(world.servers.dynamodb_env)
        for odd in ({"S": "x"}, {"N": "1.5"}):
            engine.put_item(TableName=world.table, Item={"id": {"S": "c"}, "client_balance": odd})
            async with world.task(**env):
                assert await adjust(teller, "c", -10, "a") == made
                assert (await adjust(teller, "c", 1, "b"))[0] == "500 INTERNAL_ERROR"


async def events(world: World, count: int) -> Sequence[tuple[str, int]]:
    """Return the subject and the balance of each event."""
    async with world.administrator() as admin:
        found = [await admin.get_msg(STREAM, number) for number in range(1, count + 1)]
    return [(event.subject or "", orjson.loads(event.data or b"")["balance"]) for event in found]
