"""Clients are made and read over NATS, on the real engine, and when it throttles, loses responses or stalls."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import nats.errors
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from service.contracts import customer as contract
from service.customer.endpoints import create
from service.requests.errors import BadRequest
from tests.support.drills.drill import stored
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal, stall
from tests.support.world import World, eventually, metric, statistics


def decode(payload: bytes) -> create.NewClient:
    """As it comes from the wire: each byte a character."""
    return create.decode(payload.decode("latin-1"))


JOHN = {"client_id": "j1", "name": "John Doe", "created_at": "2024-01-23"}


async def ask(client: Client, subject: str, **body: Any) -> tuple[str, Any]:
    """The reply's code and description, `OK` when it has none, and its body."""
    reply = await client.request(subject, orjson.dumps(body), timeout=5)
    headers = reply.headers or {}
    code = f"{headers['Nats-Service-Error-Code']} {headers['Nats-Service-Error']}" if headers else "OK"
    return code, orjson.loads(reply.data)


@pytest.mark.parametrize(
    ("given_", "written"),
    [
        ("2024-01-23", "2024-01-23"),
        ("2024-01-23T10:00:00Z", "2024-01-23T10:00:00Z"),
        ("2024-01-23t10:00:00z", "2024-01-23T10:00:00Z"),
        ("2024-01-23T10:00:00+02:00", "2024-01-23T08:00:00Z"),
        ("2024-01-23 10:00", "2024-01-23T10:00:00Z"),
        ("2024-02-29T23:59:59.25Z", "2024-02-29T23:59:59.250000Z"),
        (None, None),
    ],
)
def test_dates_that_are_taken(given_: str | None, written: str | None) -> None:
    assert decode(orjson.dumps({"name": "x", "created_at": given_})).created_at == written


@pytest.mark.parametrize(
    "given_", ["", "2024-02-30", "20240123", "2024-W04-2", "2024-01-23T25:00Z", "now", 1706000000, True, ["2024-01-23"],
               "0001-01-01T00:00:00+14:00", "2024-01-23T10:00:00+99:00", "2024-01-23\n"],
)  # fmt: skip
def test_dates_that_are_refused(given_: object) -> None:
    with pytest.raises(BadRequest, match="created_at must be"):
        decode(orjson.dumps({"name": "x", "created_at": given_}))


@pytest.mark.parametrize("name", ["x", " John ", "李雷", "🜁" * 256, "O'Neill-Ångström", "עברית", " " * 900 + "x"])
def test_names_that_are_taken(name: str) -> None:
    assert decode(orjson.dumps({"name": name})).name == name.strip()


@pytest.mark.parametrize("name", ["", "   ", "x" * 257, "a\u0000b", "a\nb", "a\u0085b", 7, None, {}])
def test_names_that_are_refused(name: object) -> None:
    with pytest.raises(BadRequest, match=r"^name "):
        decode(orjson.dumps({"name": name}))


def test_a_name_that_is_missing_is_not_one_of_another_kind() -> None:
    with pytest.raises(BadRequest, match=r"^name is missing$"):
        decode(b'{"Name":"x"}')
    with pytest.raises(BadRequest, match=r"^name must be a string$"):
        decode(b'{"name":null}')


@given(st.binary(max_size=200) | st.dictionaries(st.text(), st.text()).map(lambda d: json.dumps(d).encode()))
def test_any_bytes_are_a_client_or_refused(payload: bytes) -> None:
    try:
        client = decode(payload)
    except BadRequest as error:
        assert orjson.loads(error.body)["error"]
    else:
        assert 1 <= len(client.name) <= 256


def test_ids_that_are_made_are_tokens_of_their_own() -> None:
    made = {decode(b'{"name":"x"}').client_id for _ in range(100)}
    assert len(made) == 100
    assert all(id_.isalnum() and len(id_) <= 128 for id_ in made)


async def test_a_client_is_made_read_and_asked_for_his_balance(world: World) -> None:
    async with world.task(SEED_ROWS="3") as task, world.client("registrar") as registrar, world.client() as client:
        before = datetime.now(UTC)
        code, made = await ask(registrar, contract.CREATE_SUBJECT, name="  Jane  ")
        assert code == "OK"
        assert await ask(registrar, contract.CREATE_SUBJECT, **JOHN) == ("OK", {"client_id": "j1"})
        got = await ask(client, contract.GET_SUBJECT, client_id="j1", consistent=True)
        assert got == ("OK", {**JOHN, "balance": 0})
        _, jane = await ask(client, contract.GET_SUBJECT, client_id=made["client_id"], consistent=True)
        assert (jane["name"], jane["balance"]) == ("Jane", 0)
        assert before <= datetime.fromisoformat(jane["created_at"]) <= datetime.now(UTC)
        assert await ask(client, contract.SUBJECT, client_id="j1") == ("OK", {"balance": 0})
        _, seeded = await ask(client, contract.GET_SUBJECT, client_id="2")
        assert seeded == {"client_id": "2", "balance": world.rows()["2"]}, "no name and no date"
        assert await ask(client, contract.GET_SUBJECT, client_id="no") == ("404 NOT_FOUND", {"error": "no such client"})
        code, _ = await ask(client, contract.GET_SUBJECT, client_id="2", consistent=1)
        assert code == "403 BAD_REQUEST"
        await stored(world, 1)  # creating and reading are no answers about a balance
        (stats,) = await statistics(client, 1)
        counts = {e["name"]: (e["num_requests"], e["num_errors"]) for e in stats["endpoints"]}
        assert {"balance": (1, 0), "get": (5, 2), "create": (2, 0)}.items() <= counts.items()
        (info,) = await statistics(client, 1, "INFO")
        subjects = {e["name"]: e["subject"] for e in info["endpoints"]}
        served = {"balance": "customer.balance", "get": "customer.get", "create": "customer.create"}
        assert served.items() <= subjects.items()
        assert all({"request_schema", "response_schema"} <= e["metadata"].keys() for e in info["endpoints"])
        assert await metric(task, "balance_requests_total") == 8


async def test_it_is_safe_to_repeat_and_never_overwrites(world: World) -> None:
    world.put_rows({"old": 500})
    async with world.task(SEED_ROWS="0"), world.client("registrar") as client:
        answers = await asyncio.gather(*(ask(client, contract.CREATE_SUBJECT, **JOHN) for _ in range(20)))
        assert answers == [("OK", {"client_id": "j1"})] * 20
        without_date = {"client_id": "j1", "name": "John Doe"}
        assert await ask(client, contract.CREATE_SUBJECT, **without_date) == ("OK", {"client_id": "j1"})
        for other in (
            {**JOHN, "name": "Jack"},
            {**JOHN, "created_at": "2024-01-24"},
            {"client_id": "old", "name": "x"},
        ):
            code, body = await ask(client, contract.CREATE_SUBJECT, **other)
            assert code == "409 CONFLICT"
            assert "with other content" in body["error"]
        got = await ask(client, contract.GET_SUBJECT, client_id="j1", consistent=True)
        assert got == ("OK", {**JOHN, "balance": 0})
    assert world.rows() == {"old": 500, "j1": 0}


async def test_two_with_other_content_at_once_make_one(world: World) -> None:
    async with world.task(SEED_ROWS="0"), world.client("registrar") as client:
        names = [f"name {number}" for number in range(20)]
        asked = [ask(client, contract.CREATE_SUBJECT, client_id="same", name=name) for name in names]
        answers = await asyncio.gather(*asked)
        (winner,) = [name for name, (code, _) in zip(names, answers, strict=True) if code == "OK"]
        _, got = await ask(client, contract.GET_SUBJECT, client_id="same", consistent=True)
        assert got["name"] == winner


async def test_a_written_client_whose_response_was_lost_is_found_again(world: World, proxy: FaultyDynamoDB) -> None:
    lost: list[str] = []

    async def fault(action: str, call: Call) -> web.Response | None:
        if action == "PutItem" and not lost:
            lost.append(action)
            world.put_item(call["Item"])
            return web.Response(status=500)
        return None

    proxy.fault = fault
    async with world.task(SEED_ROWS="0", **proxy.env), world.client("registrar") as client:
        assert await ask(client, contract.CREATE_SUBJECT, **JOHN) == ("OK", {"client_id": "j1"})
        assert lost
        (action, looked), *_ = reversed(proxy.calls)
        assert action == "BatchGetItem"
        assert looked["RequestItems"][world.table]["ConsistentRead"], "its own write is seen for certain"
    assert world.rows() == {"j1": 0}


async def test_throttled_writes_back_off_and_a_stall_ends_at_the_deadline(world: World, proxy: FaultyDynamoDB) -> None:
    async with world.task(SEED_ROWS="0", **proxy.env) as task, world.client("registrar") as client:
        proxy.calls.clear()

        def puts() -> int:
            return sum(action == "PutItem" for action, _ in proxy.calls)

        proxy.fault = lambda *_: refusal("ThrottlingException") if puts() < 3 else None
        assert (await ask(client, contract.CREATE_SUBJECT, **JOHN))[0] == "OK"
        assert puts() == 3
        proxy.fault = lambda *_: refusal("ThrottlingException")
        code, _ = await ask(client, contract.CREATE_SUBJECT, name="x")
        assert (code, puts()) == ("503 UNAVAILABLE", 6)
        proxy.fault = stall(10)
        started = asyncio.get_running_loop().time()
        assert (await ask(client, contract.CREATE_SUBJECT, name="x"))[0] == "503 UNAVAILABLE"
        assert asyncio.get_running_loop().time() - started < 2.5
        proxy.fault = lambda *_: refusal("AccessDeniedException")
        for _ in range(3):
            assert (await ask(client, contract.CREATE_SUBJECT, name="x"))[0] == "500 INTERNAL_ERROR"
        assert task.child.log.read_text().count('"look-up failed"') == 1, "an expected error, and no traceback"
        proxy.fault = None
        assert (await ask(client, contract.CREATE_SUBJECT, name="x"))[0] == "OK"
        assert await metric(task, "balance_requests_in_flight") == 0


async def test_a_write_that_meets_a_transaction_is_tried_again(world: World, proxy: FaultyDynamoDB) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_PutItem.html#API_PutItem_Errors"""
    async with world.task(SEED_ROWS="0", **proxy.env), world.client("registrar") as client:
        proxy.calls.clear()
        proxy.fault = lambda *_: refusal("TransactionConflictException") if len(proxy.calls) < 3 else None
        assert await ask(client, contract.CREATE_SUBJECT, **JOHN) == ("OK", {"client_id": "j1"})
        assert [action for action, _ in proxy.calls] == ["PutItem"] * 3
    assert world.rows() == {"j1": 0}


async def test_one_call_reads_for_both_endpoints_and_a_consistent_one_apart(
    world: World, proxy: FaultyDynamoDB
) -> None:
    world.put_rows({str(number): number for number in range(1, 9)})
    async with world.task(SEED_ROWS="0", **proxy.env), world.client() as client:
        let_go = asyncio.Event()

        async def hold(_action: str, _call: Call) -> None:
            await let_go.wait()

        proxy.fault = hold
        proxy.calls.clear()
        # Four calls are held; what comes then shares the next one.
        first = []
        for number in range(1, 5):
            first.append(asyncio.create_task(ask(client, contract.SUBJECT, client_id=str(number))))
            await eventually(lambda number=number: len(proxy.calls) == number)
        rest = [
            asyncio.create_task(ask(client, contract.SUBJECT, client_id="5")),
            asyncio.create_task(ask(client, contract.GET_SUBJECT, client_id="5")),
            asyncio.create_task(ask(client, contract.GET_SUBJECT, client_id="6")),
            asyncio.create_task(ask(client, contract.GET_SUBJECT, client_id="7", consistent=True)),
        ]
        await eventually(lambda: len(proxy.calls) == 6)
        let_go.set()
        await asyncio.gather(*first)
        balance, five, six, seven = await asyncio.gather(*rest)
        assert balance == ("OK", {"balance": 5})
        assert (five[1]["balance"], six[1]["balance"], seven[1]["balance"]) == (5, 6, 7)
        calls = [call["RequestItems"][world.table] for _, call in proxy.calls[4:]]
        asked = {tuple(key["id"]["S"] for key in call["Keys"]): call.get("ConsistentRead", False) for call in calls}
        assert asked == {("5", "6"): False, ("7",): True}


@pytest.mark.parametrize("user", ["client", "gateway", "viewer"])
async def test_only_the_registrar_may_create(world: World, user: str) -> None:
    async with world.task(SEED_ROWS="0"), world.client(user) as client:
        with pytest.raises(nats.errors.TimeoutError):
            await client.request(contract.CREATE_SUBJECT, orjson.dumps(JOHN), timeout=0.3)
    assert world.rows() == {}
