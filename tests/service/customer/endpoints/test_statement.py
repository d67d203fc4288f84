"""A client's adjustments by the page, newest first, and each that was answered is there: on the real engine."""

from __future__ import annotations

import asyncio

import nats.errors
import orjson
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from service.contracts import customer as contract
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal, stall
from tests.support.ledger.adjusting import adjust, ask, statement
from tests.support.world import World, metric

RESPONSE = Draft202012Validator(contract.STATEMENT_RESPONSE_SCHEMA)


async def test_pages_from_the_newest_to_the_oldest(world: World) -> None:
    world.put_rows({"678": 100, "679": 0, "680": 0})
    env = await world.with_adjustments()
    async with world.task(**env), world.client("teller") as teller, world.client() as client:
        for number in range(5):
            assert (await adjust(teller, "678", number + 1, f"z{9 - number}", reason="x" * number))[0] == "OK"
        assert (await adjust(teller, "679", 7, "of another client"))[0] == "OK"
        _, data = await ask(client, contract.STATEMENT_SUBJECT, {"client_id": "678", "limit": 2})
        page = orjson.loads(data)
        assert page["before"] == 4
        assert [(entry["adjustment_id"], entry["points"], entry["balance"]) for entry in page["adjustments"]] == [
            ("z5", 5, 115), ("z6", 4, 110),
        ]  # fmt: skip
        assert page["adjustments"][0]["reason"] == "xxxx"
        RESPONSE.validate(page)
        for limit in (1, 2, 5, 100):
            entries = await statement(client, "678", limit)
            assert [entry["adjustment_id"] for entry in entries] == ["z5", "z6", "z7", "z8", "z9"]
            assert 100 + sum(entry["points"] for entry in entries) == 115
        assert await statement(client, "680") == [], "a client without any"
        code, _ = await ask(client, contract.STATEMENT_SUBJECT, {"client_id": "nobody"})
        assert code == "404 NOT_FOUND"
        code, data = await ask(client, contract.STATEMENT_SUBJECT, {"client_id": "678", "before": 1})
        assert (code, orjson.loads(data)) == ("OK", {"client_id": "678", "adjustments": []})


async def test_each_answered_adjustment_is_in_it_and_in_a_consistent_read(world: World, proxy: FaultyDynamoDB) -> None:
    world.put_rows({"678": 0})
    env = {**await world.with_adjustments(), **proxy.env}
    async with world.task(**env), world.client("teller") as teller:
        for number in range(1, 21):
            _, body = await adjust(teller, "678", 1, f"a{number}")
            entry, *_ = orjson.loads((await ask(teller, contract.STATEMENT_SUBJECT, {"client_id": "678"}))[1])[
                "adjustments"
            ]
            assert (entry["adjustment_id"], entry["balance"]) == (f"a{number}", orjson.loads(body)["balance"])
            _, got = await ask(teller, contract.GET_SUBJECT, {"client_id": "678", "consistent": True})
            assert orjson.loads(got)["balance"] == number
    queries = [call for action, call in proxy.calls if action == "Query" and call["Limit"] == 51]
    assert len(queries) == 20
    assert all(call["ConsistentRead"] and call["IndexName"] == "by_sequence" for call in queries)


async def test_the_largest_page_fits_into_a_reply(world: World) -> None:
    world.put_rows({"\u00fc" * 128: 0})
    env = await world.with_adjustments()
    async with world.task(**env), world.client("teller") as teller:
        wide = [
            adjust(teller, "\u00fc" * 128, 10**12, "\U0001f701" * 125 + f"{number:03}", reason='"' * 200)
            for number in range(100)
        ]
        assert {code for code, _ in await asyncio.gather(*wide)} == {"OK"}
        entries = await statement(teller, "\u00fc" * 128)
        assert (len(entries), entries[0]["balance"], entries[0]["reason"]) == (100, 10**14, '"' * 200)


async def test_a_table_that_fails_is_asked_again_and_then_said_to_be_unavailable(
    world: World, proxy: FaultyDynamoDB
) -> None:
    world.put_rows({"678": 0})
    env = {**await world.with_adjustments(), **proxy.env}
    async with world.task(**env) as task, world.client() as client:
        proxy.calls.clear()
        proxy.fault = lambda *_: refusal("ThrottlingException") if len(proxy.calls) < 3 else None
        assert await statement(client, "678") == []
        proxy.fault = lambda *_: web.Response(status=200, body=b'{"Items":[{}]}')
        assert (await ask(client, contract.STATEMENT_SUBJECT, {"client_id": "678"}))[0] == "503 UNAVAILABLE"
        proxy.fault = stall(10)
        assert (await ask(client, contract.STATEMENT_SUBJECT, {"client_id": "678"}))[0] == "503 UNAVAILABLE"
        proxy.fault = lambda *_: refusal("AccessDeniedException")
        assert (await ask(client, contract.STATEMENT_SUBJECT, {"client_id": "678"}))[0] == "500 INTERNAL_ERROR"
        assert await metric(task, "balance_requests_in_flight") == 0


async def test_the_teller_and_the_client_may_read_one_and_no_one_else(world: World) -> None:
    world.put_rows({"678": 0})
    env = await world.with_adjustments()
    async with world.task(**env):
        for user in ("client", "teller"):
            async with world.client(user) as client:
                assert await statement(client, "678") == []
        for user in ("registrar", "gateway", "viewer"):
            async with world.client(user) as client:
                with pytest.raises(nats.errors.TimeoutError):
                    await client.request(contract.STATEMENT_SUBJECT, b'{"client_id":"678"}', timeout=0.3)
