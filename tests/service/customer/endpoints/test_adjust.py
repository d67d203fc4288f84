"""An adjustment is made once, whatever happens to the call that writes it: on the real engine."""

from __future__ import annotations

import asyncio
import re

import botocore.session
import nats.errors
import orjson
import pytest
from aiohttp import web

from local.servers import dynamodb
from service.contracts import customer as contract
from service.contracts.stream import STREAM
from service.customer.endpoints.adjust import event_ids
from service.customer.events.event import ID_LENGTH
from service.customer.ledger.failures import PASSES
from tests.support.drills.drill import stored
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal, stall
from tests.support.ledger.adjusting import adjust, ask, follows
from tests.support.world import World, eventually, metric, statistics

OUT = {"client_id": "678", "points": -250, "adjustment_id": "order-9913", "reason": "redeemed"}
BACK = b'{"client_id":"678","adjustment_id":"order-9913","points":-250,"balance":6870}'


def writes(proxy: FaultyDynamoDB) -> list[Call]:
    return [call for action, call in proxy.calls if action == "TransactWriteItems"]


def execute(world: World, call: Call) -> None:
    dynamodb.client(world.servers.dynamodb_env).transact_write_items(**call)


def cancelled(*codes: str) -> web.Response:
    """As DynamoDB says it: botocore's model of the error has no other members."""
    reasons = [{"Code": code} for code in codes]
    body = {"__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException", "CancellationReasons": reasons}
    return web.Response(status=400, body=orjson.dumps(body), content_type="application/x-amz-json-1.0")


async def test_an_adjustment_its_repeat_and_those_that_are_refused(world: World) -> None:
    world.put_rows({"678": 7120})
    env = await world.with_adjustments()
    async with world.task(**env) as task, world.client("teller") as teller:
        assert await ask(teller, contract.ADJUST_SUBJECT, OUT) == ("OK", BACK)
        assert await ask(teller, contract.ADJUST_SUBJECT, OUT) == ("OK", BACK)
        assert (await adjust(teller, "678", 1000, "order-9914"))[1].endswith(b'"balance":7870}')
        assert await ask(teller, contract.ADJUST_SUBJECT, {**OUT, "reason": "other"}) == ("OK", BACK), "for ever"
        code, body = await adjust(teller, "678", -251, "order-9913")
        assert (code, orjson.loads(body)) == (
            "409 CONFLICT", {"error": "an adjustment of that adjustment_id is there, with -250 points"},
        )  # fmt: skip
        assert (await adjust(teller, "678", -7871, "much"))[0] == "409 INSUFFICIENT_BALANCE"
        assert (await adjust(teller, "678", -7870, "all"))[1].endswith(b'"balance":0}')
        assert (await adjust(teller, "678", 7870, "much"))[0] == "OK", "what was refused was not made"
        assert (await adjust(teller, "nobody", 1, "a"))[0] == "404 NOT_FOUND"
        assert (await adjust(teller, "678", 0, "a"))[0] == "403 BAD_REQUEST"
        got = await ask(teller, contract.GET_SUBJECT, {"client_id": "678", "consistent": True})
        assert orjson.loads(got[1])["balance"] == 7870
        assert await metric(task, "balance_requests_in_flight") == 0
        (info,) = await statistics(teller, 1, "INFO")
        schemas = {e["name"]: orjson.loads(e["metadata"]["request_schema"]) for e in info["endpoints"]}
        assert schemas["adjust"] == contract.ADJUST_REQUEST_SCHEMA
        assert schemas["statement"] == contract.STATEMENT_REQUEST_SCHEMA
    rows = sorted(world.ledger(), key=lambda row: int(row["sequence"]))
    assert [(row["adjustment_id"], row["sequence"]) for row in rows] == [
        ("order-9913", "1"), ("order-9914", "2"), ("all", "3"), ("much", "4"),
    ]  # fmt: skip
    assert (rows[0]["reason"], "reason" in rows[1]) == ("redeemed", False)
    assert follows(rows, 7120) == world.rows()["678"] == 7870


async def test_another_task_gives_the_same_bytes(world: World) -> None:
    world.put_rows({"678": 7120})
    env = await world.with_adjustments()
    async with world.client("teller") as teller:
        for _ in range(2):
            async with world.task(**env):
                assert await ask(teller, contract.ADJUST_SUBJECT, OUT) == ("OK", BACK)
    assert len(world.ledger()) == 1


async def test_those_that_wait_share_a_transaction_in_their_order(world: World, proxy: FaultyDynamoDB) -> None:
    world.put_rows({"hot": 0, "other": 5})
    env = {**await world.with_adjustments(), **proxy.env}
    async with world.task(**env), world.client("teller") as teller:
        let_go = asyncio.Event()

        async def hold(action: str, call: Call) -> None:
            if action == "TransactWriteItems":
                await let_go.wait()

        proxy.fault = hold
        asked = [asyncio.create_task(adjust(teller, "hot", 1, "first"))]
        await eventually(lambda: len(writes(proxy)) == 1)
        ups_and_downs = [adjust(teller, "hot", -1 if number % 2 else 1, f"a{number}") for number in range(250)]
        asked += map(asyncio.create_task, ups_and_downs)
        other = asyncio.create_task(adjust(teller, "other", -6, "too much"))
        assert (await other)[0] == "409 INSUFFICIENT_BALANCE", "it waits for no other client"
        await asyncio.sleep(0)
        let_go.set()
        answers = await asyncio.gather(*asked)
    assert {code for code, _ in answers} == {"OK"}
    sizes = [len(call["TransactItems"]) for call in writes(proxy)]
    assert (sizes[0], max(sizes)) == (2, 100)
    assert len(sizes) <= 5, sizes
    rows = sorted(world.ledger(), key=lambda row: int(row["sequence"]))
    assert [row["adjustment_id"] for row in rows] == ["first", *(f"a{number}" for number in range(250))]
    assert follows(rows, 0) == world.rows()["hot"] == 1


async def test_one_client_never_fails_with_another(world: World, proxy: FaultyDynamoDB) -> None:
    world.put_rows({"good": 1, "bad": 1})
    env = {**await world.with_adjustments(), **proxy.env}

    def fault(action: str, call: Call) -> web.Response | None:
        return refusal("AccessDeniedException") if action == "TransactWriteItems" and '"bad"' in str(
            orjson.dumps(call)) else None  # fmt: skip

    proxy.fault = fault
    async with world.task(**env), world.client("teller") as teller:
        asked = [adjust(teller, name, 1, f"{name}{number}") for number in range(5) for name in ("good", "bad")]
        answers = await asyncio.gather(*asked)
    assert [code for code, _ in answers] == ["OK", "500 INTERNAL_ERROR"] * 5


@pytest.mark.parametrize("token", [True, False], ids=["the token is known", "the token is forgotten"])
async def test_a_written_adjustment_whose_answer_was_lost_is_made_once(
    world: World, proxy: FaultyDynamoDB, token: bool
) -> None:
    world.put_rows({"678": 7120})
    env = {**await world.with_adjustments(), **proxy.env}
    lost: list[Call] = []

    async def fault(action: str, call: Call) -> web.Response | None:
        if action == "TransactWriteItems" and not lost:
            lost.append(call)
            execute(world, call if token else {**call, "ClientRequestToken": "of another call"})
            return web.Response(status=500)
        return None

    proxy.fault = fault
    async with world.task(**env), world.client("teller") as teller:
        assert await ask(teller, contract.ADJUST_SUBJECT, OUT) == ("OK", BACK)
        assert await ask(teller, contract.ADJUST_SUBJECT, OUT) == ("OK", BACK)
    assert [writes(proxy)[1]] == lost, "the same bytes, token and all"
    assert (len(world.ledger()), world.rows()["678"]) == (1, 6870)


PASSING = {
    "conflict": lambda: cancelled("TransactionConflict", "None"),
    "throttled item": lambda: cancelled("None", "ThrottlingError"),
    "provisioned": lambda: cancelled("ProvisionedThroughputExceeded", "ProvisionedThroughputExceeded"),
    "condition": lambda: cancelled("ConditionalCheckFailed", "None"),
    "in progress": lambda: refusal("TransactionInProgressException"),
    "throttled": lambda: refusal("ThrottlingException"),
    "500": lambda: refusal("InternalServerError", 500),
    "503": lambda: web.Response(status=503),
    "no JSON": lambda: web.Response(status=200, body=b"<html>"),
}


async def test_what_passes_is_tried_again_and_what_does_not_is_refused_at_once(
    world: World, proxy: FaultyDynamoDB
) -> None:
    world.put_rows({"c": 0})
    env = {**await world.with_adjustments(), **proxy.env}
    async with world.task(**env) as task, world.client("teller") as teller:
        for number, (name, answer) in enumerate(PASSING.items()):
            proxy.calls.clear()
            proxy.fault = lambda action, _, answer=answer: (
                answer() if action == "TransactWriteItems" and len(writes(proxy)) < 3 else None
            )
            assert (await adjust(teller, "c", 1, name))[1].endswith(b'"balance":%d}' % (number + 1)), name
            assert len(writes(proxy)) == 3, name
        for code in ("ValidationError", "ItemCollectionSizeLimitExceeded", "AccessDenied", "one that is new"):
            proxy.calls.clear()
            proxy.fault = lambda action, _, code=code: (
                cancelled("None", code) if action == "TransactWriteItems" else None
            )
            assert (await adjust(teller, "c", 1, code))[0] == "500 INTERNAL_ERROR"
            assert len(writes(proxy)) == 1
        assert "TransactionCanceledException" in task.child.log.read_text()
    assert world.rows()["c"] == len(PASSING)


def test_every_reason_that_dynamodb_has_is_known() -> None:
    model = botocore.session.get_session().get_service_model("dynamodb")
    documented = set(
        re.findall(r"Code: <code>(\w+)</code>", model.shape_for("TransactionCanceledException").documentation)
    )
    assert documented == {*PASSES, "ItemCollectionSizeLimitExceeded", "ValidationError"}


async def test_an_unknown_outcome_is_said_to_be_unknown_and_the_repeat_settles_it(
    world: World, proxy: FaultyDynamoDB
) -> None:
    world.put_rows({"678": 7120, "other": 1})
    env = {**await world.with_adjustments(), **proxy.env}
    executed: list[Call] = []

    async def fault(action: str, call: Call) -> None:
        if action == "TransactWriteItems":
            if not executed:
                executed.append(call)
                execute(world, call)
            await asyncio.sleep(10)

    async with world.task(**env) as task, world.client("teller") as teller:
        proxy.fault = fault
        started = asyncio.get_running_loop().time()
        code, body = await ask(teller, contract.ADJUST_SUBJECT, OUT)
        assert asyncio.get_running_loop().time() - started < 3.5
        assert (code, "outcome is unknown" in orjson.loads(body)["error"]) == ("503 UNAVAILABLE", True)
        assert await metric(task, "balance_adjustments_unknown_total") == 1
        proxy.fault = None
        assert await ask(teller, contract.ADJUST_SUBJECT, OUT) == ("OK", BACK)
        proxy.fault = lambda *_: refusal("ThrottlingException")
        code, body = await adjust(teller, "other", 1, "x")
        assert (code, orjson.loads(body)) == ("503 UNAVAILABLE", {"error": "the database is busy; try again"})
        assert await metric(task, "balance_adjustments_unknown_total") == 1, "throttled is not executed"
        assert await metric(task, "balance_requests_in_flight") == 0
    assert len(world.ledger()) == 1


async def test_a_refusal_is_about_the_rows_and_not_about_what_the_task_remembers(world: World) -> None:
    """Another task has made the adjustment, and left less than it takes; or has given more."""
    world.put_rows({"c": 100})
    env = await world.with_adjustments()
    async with world.task(**env), world.client("teller") as teller:
        assert (await adjust(teller, "c", -10, "a"))[0] == "OK"
        execute(world, of_another_task(world, "c", 90, 1, -90, "b"))
        assert await adjust(teller, "c", -90, "b") == (
            "OK", b'{"client_id":"c","adjustment_id":"b","points":-90,"balance":0}',
        )  # fmt: skip
        execute(world, of_another_task(world, "c", 0, 2, 500, "gift"))
        assert (await adjust(teller, "c", -500, "d"))[1].endswith(b'"balance":0}')


def of_another_task(world: World, client_id: str, balance: int, count: int, points: int, id_: str) -> Call:
    after, number = {"N": str(balance + points)}, {"N": str(count + 1)}
    entry = {
        "client_id": {"S": client_id}, "adjustment_id": {"S": id_}, "points": {"N": str(points)}, "balance": after,
        "sequence": number, "at": {"S": "2026-01-01T00:00:00.000Z"},
    }  # fmt: skip
    update = {
        "TableName": world.table, "Key": {"id": {"S": client_id}},
        "UpdateExpression": "SET client_balance=:b, adjustments=:n",
        "ExpressionAttributeValues": {":b": after, ":n": number},
    }  # fmt: skip
    return {"TransactItems": [{"Update": update}, {"Put": {"TableName": world.adjustments, "Item": entry}}]}


async def test_two_tasks_make_each_adjustment_once(world: World) -> None:
    world.put_rows({"hot": 1000})
    env = await world.with_adjustments()
    async with world.task(**env), world.task(**env), world.client("teller") as teller:
        asked = [adjust(teller, "hot", -1 if number % 3 else 2, f"a{number % 150}") for number in range(300)]
        answers = await asyncio.gather(*asked)
        assert {code for code, _ in answers} == {"OK"}
        assert answers[:150] == answers[150:], "whoever answers"
    rows = sorted(world.ledger(), key=lambda row: int(row["sequence"]))
    assert [int(row["sequence"]) for row in rows] == list(range(1, 151))
    assert follows(rows, 1000) == world.rows()["hot"] == 1000


async def test_each_adjustment_is_two_events_once(world: World) -> None:
    world.put_rows({"678": 7120})
    env = await world.with_adjustments()
    async with world.task(**env), world.client("teller") as teller:
        await asyncio.gather(*(ask(teller, contract.ADJUST_SUBJECT, OUT) for _ in range(5)))
        assert (await adjust(teller, "678", -9000, "no"))[0] == "409 INSUFFICIENT_BALANCE"
        await asyncio.gather(*(ask(teller, contract.ADJUST_SUBJECT, OUT) for _ in range(5)))
        await asyncio.gather(*(adjust(teller, "678", 1, f"more-{number}") for number in range(60)))
        await stored(world, 122)
        async with world.administrator() as admin:
            first = [await admin.get_msg(STREAM, number) for number in (1, 2)]
    assert [(event.subject, event.data) for event in first] == [
        ("customer.balance.678", b'{"balance":6870}'), ("customer.adjusted.678", BACK),
    ]  # fmt: skip
    assert [(event.headers or {})["Nats-Msg-Id"] for event in first] == event_ids("678", "order-9913")


async def test_a_repeat_later_than_the_stream_remembers_is_no_event(world: World) -> None:
    world.put_rows({"c": 100})
    env = await world.with_adjustments()
    execute(world, of_another_task(world, "c", 100, 0, -90, "long ago"))
    async with world.task(**env), world.client("teller") as teller:
        assert (await adjust(teller, "c", -90, "long ago"))[1].endswith(b'"balance":10}')
        assert (await adjust(teller, "c", -1, "now"))[1].endswith(b'"balance":9}')
        await stored(world, 2)
        async with world.administrator() as admin:
            assert (await admin.get_msg(STREAM, 1)).data == b'{"balance":9}'


def test_ids_of_events_are_of_one_length_and_of_one_adjustment() -> None:
    ids = [*event_ids("a", "b"), *event_ids("a\u00fc", "b"), *event_ids("a", "\u00fcb"), *event_ids("ab", "")]
    assert (len(set(ids)), {len(each) for each in ids}) == (8, {ID_LENGTH})


async def test_a_table_that_stalls_is_answered_in_time(world: World, proxy: FaultyDynamoDB) -> None:
    world.put_rows({"678": 7120})
    env = {**await world.with_adjustments(), **proxy.env}
    async with world.task(**env) as task, world.client("teller") as teller:
        proxy.fault = stall(10)
        started = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(adjust(teller, str(number % 100), 1, f"a{number}") for number in range(300)))
        assert asyncio.get_running_loop().time() - started < 4.5
        assert {code for code, _ in answers} == {"503 UNAVAILABLE"}
        assert await metric(task, "balance_adjustments_unknown_total") == 0, "nothing was written"
        proxy.fault = None
        assert await ask(teller, contract.ADJUST_SUBJECT, OUT) == ("OK", BACK)


async def test_only_the_teller_may_adjust(world: World) -> None:
    world.put_rows({"678": 7120})
    env = await world.with_adjustments()
    async with world.task(**env):
        for user in ("client", "registrar", "gateway", "viewer"):
            async with world.client(user) as client:
                with pytest.raises(nats.errors.TimeoutError):
                    await client.request(contract.ADJUST_SUBJECT, orjson.dumps(OUT), timeout=0.3)
    assert world.rows() == {"678": 7120}


async def test_without_a_table_of_adjustments_they_are_not_served(world: World) -> None:
    world.put_rows({"678": 7120})
    async with world.task(SEED_ROWS="0"), world.client("teller") as teller:
        for subject in (contract.ADJUST_SUBJECT, contract.STATEMENT_SUBJECT):
            with pytest.raises(nats.errors.NoRespondersError):
                await teller.request(subject, orjson.dumps(OUT), timeout=5)
        (info,) = await statistics(teller, 1, "INFO")
        assert not {contract.ADJUST_NAME, contract.STATEMENT_NAME} & {e["name"] for e in info["endpoints"]}
