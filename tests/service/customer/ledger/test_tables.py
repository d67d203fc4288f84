"""The ledger's calls, judged by botocore: what is sent, what is executed, and what a cancelled transaction says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import botocore.serialize
import botocore.session
import orjson
import pytest
from aiohttp import web
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from local.servers import dynamodb
from service.customer.ledger.decide import Entry, State
from service.customer.ledger.tables import MAX_ENTRIES, TOLD, Ledger
from service.dynamodb.errors import DynamoDBError, InvalidResponse, is_retryable
from service.requests.errors import InternalError
from service.runtime.errors import ServiceError
from tests.support.dynamodb.faulty import FaultyDynamoDB, answer, refusal
from tests.support.world import World

ODD = 'a"\\\u00fc\U0001f701\n'
AT = "2026-01-01T00:00:00.000Z"


def entry(number: int, points: int = 1, balance: int = 1, reason: str | None = None, key: str = "") -> Entry:
    return Entry(key or f"a{number}", points, balance, number, reason, AT)


@asynccontextmanager
async def ledger(world: World) -> AsyncIterator[Ledger]:
    await world.with_adjustments()
    opened = Ledger(world.table, world.adjustments)
    opened.open()
    yield opened
    opened.close()


def soon() -> float:
    return asyncio.get_running_loop().time() + 5


def test_a_transaction_is_as_botocore_writes_it() -> None:
    model = botocore.session.get_session().get_service_model("dynamodb").operation_model("TransactWriteItems")
    assert model.input_shape is not None
    made = Ledger("balances", "adjustments")
    for before, new in (
        (State(7, 0), [entry(1, -7, 0, ODD, ODD)]),
        (State(7, 5), [entry(6, 10**12, 7 + 10**12), entry(7, -1, 6 + 10**12, "")]),
        (State(0, 1), [entry(2 + number) for number in range(MAX_ENTRIES)]),
    ):
        body = orjson.loads(made.transaction(ODD, before, new))
        assert not ParamValidator().validate(body, model.input_shape).has_errors()
        serialized = botocore.serialize.create_serializer("json").serialize_to_request(body, model)["body"]
        assert json.loads(serialized) == body, "no member that its model does not know"
        assert 1 <= len(body["ClientRequestToken"]) <= 36
        assert len(body["TransactItems"]) == 1 + len(new) <= 100
        assert body["ClientRequestToken"] not in str(made.transaction(ODD, before, new)), "each has its own"


@pytest.mark.usefixtures("aws")
async def test_what_is_written_is_read_again(world: World) -> None:
    world.put_rows({ODD: 100})
    async with ledger(world) as opened:
        assert await opened.read(ODD, ["x", "x"], soon()) == (State(100, 0), {})
        first = [entry(1, -100, 0, ODD, ODD), entry(2, 5, 5, "", "b"), entry(3, 1, 6)]
        await opened.write(opened.transaction(ODD, State(100, 0), first), 3, soon())
        assert await opened.read(ODD, [ODD, "b", "c"], soon()) == (State(6, 3), {ODD: first[0], "b": first[1]})
        assert await opened.look(ODD, ["a3"], soon()) == {"a3": first[2]}
        assert await opened.page(ODD, None, 2, soon()) == [first[2], first[1]]
        assert await opened.page(ODD, 2, 2, soon()) == [first[0]]
        assert await opened.read("nobody", ["a"], soon()) == (None, {})
        more = [entry(4 + number) for number in range(MAX_ENTRIES)]
        await opened.write(opened.transaction(ODD, State(6, 3), more), len(more), soon())
        state, found = await opened.read(ODD, [each.adjustment_id for each in more], soon())
        assert (state, len(found)) == (State(1, 3 + MAX_ENTRIES), MAX_ENTRIES)


@pytest.mark.usefixtures("aws")
async def test_a_transaction_is_executed_if_all_is_as_it_was_read(world: World) -> None:
    """The reasons are as botocore reads them, in the order of the items."""
    world.put_rows({"c": 10})
    engine = dynamodb.client(world.servers.dynamodb_env)
    async with ledger(world) as opened:
        sent = opened.transaction("c", State(10, 0), [entry(1, 1, 11)])
        await opened.write(sent, 1, soon())
        await opened.write(sent, 1, soon())  # its token has it executed once
        for before, new, reasons in (
            (State(10, 0), [entry(1, 1, 11, key="b")], ("ConditionalCheckFailed", "None")),
            (State(11, 0), [entry(1, 1, 12, key="b")], ("ConditionalCheckFailed", "None")),
            (State(10, 1), [entry(2, 1, 11, key="b")], ("ConditionalCheckFailed", "None")),
            (State(11, 1), [entry(2, key="b"), entry(3, key="a1")], ("None", "None", "ConditionalCheckFailed")),
        ):
            body = opened.transaction("c", before, new)
            with pytest.raises(DynamoDBError) as ours:
                await opened.write(body, 1, soon())
            with pytest.raises(ClientError) as theirs:
                engine.transact_write_items(**orjson.loads(body))
            told: Any = theirs.value.response
            assert ours.value.reasons == reasons == tuple(each["Code"] for each in told["CancellationReasons"])
            assert ours.value.code == told["Error"]["Code"] == "TransactionCanceledException"
        assert await opened.read("c", ["a1", "b"], soon()) == (State(11, 1), {"a1": entry(1, 1, 11)})


@pytest.mark.usefixtures("aws")
async def test_a_row_that_counts_0_adjustments_can_have_its_first(world: World) -> None:
    world.put_item({"id": {"S": "c"}, "client_balance": {"N": "5"}, "adjustments": {"N": "0"}})
    async with ledger(world) as opened:
        await opened.write(opened.transaction("c", State(5, 0), [entry(1, 1, 6)]), 1, soon())
        assert await opened.read("c", ["a1"], soon()) == (State(6, 1), {"a1": entry(1, 1, 6)})


async def test_an_index_by_texts_is_found_at_start(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DynamoDB refuses a number then ("Condition parameter type does not match schema type"); the local engine does not
    look at it.
    """
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    async with ledger(world) as opened:
        await opened.check()
        proxy.fault = lambda action, call: (
            refusal("ValidationException")
            if action == "Query" and any("N" in value for value in call["ExpressionAttributeValues"].values())
            else None
        )
        with pytest.raises(ServiceError, match=r"the local index by_sequence on sequence \(N\)"):
            await opened.check()


@pytest.mark.parametrize(
    ("projection", "projects"),
    [({"ProjectionType": "KEYS_ONLY"}, "KEYS_ONLY"),
     ({"ProjectionType": "INCLUDE", "NonKeyAttributes": ["points"]}, "INCLUDE")],
)  # fmt: skip
async def test_an_index_without_all_attributes_is_found_at_start(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, projection: Any, projects: str
) -> None:
    """Its statements would have no points. A task that may not describe the table serves, as before."""
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    made: Any = dynamodb.adjustments_definition(f"{world.table}-{projects}")
    made["LocalSecondaryIndexes"][0]["Projection"] = projection
    dynamodb.client(world.servers.dynamodb_env).create_table(**made, BillingMode="PAY_PER_REQUEST")
    opened = Ledger(world.table, made["TableName"])
    opened.open()
    try:
        with pytest.raises(ServiceError) as caught:
            await opened.check()
        assert str(caught.value) == (
            f"table {made['TableName']}: its index by_sequence projects {projects}, and must project ALL; "
            "an index cannot be changed: make the table again, with the index, and copy the rows"
        )
        proxy.fault = lambda action, _: refusal("AccessDeniedException") if action == "DescribeTable" else None
        await opened.check()
    finally:
        opened.close()


def test_what_a_transaction_may_answer_is_what_botocore_knows() -> None:
    model = botocore.session.get_session().get_service_model("dynamodb").operation_model("TransactWriteItems")
    assert model.output_shape is not None
    assert model.output_shape.members.keys() == TOLD


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("attribute", ["client_balance", "adjustments"])
async def test_a_row_that_has_no_integer_is_an_error_of_ours(world: World, attribute: str) -> None:
    world.put_item({"id": {"S": "c"}, "client_balance": {"N": "1"}, attribute: {"S": "one"}})
    async with ledger(world) as opened:
        client, entries = await opened.read("c", ["a"], soon())
        assert (type(client), entries) == (InternalError, {})


@pytest.mark.parametrize(
    "body",
    [
        {}, {"Responses": None}, {"Responses": {"TABLE": [{}]}}, {"Responses": {"TABLE": [{"client_id": {"S": "d"}}]}},
        {"Responses": {"TABLE": [{"client_id": {"S": "c"}, "adjustment_id": {"S": "a"}, "points": {"N": "x"}}]}},
        {"Responses": {"BALANCES": [{"id": {"S": "d"}, "client_balance": {"N": "1"}}]}},
    ],
)  # fmt: skip
async def test_an_answer_to_something_else_is_refused(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    async with ledger(world) as opened:
        text = orjson.dumps(body).decode().replace("TABLE", world.adjustments).replace("BALANCES", world.table)
        proxy.fault = lambda *_: answer(orjson.loads(text))
        with pytest.raises(InvalidResponse):
            await opened.read("c", ["a"], soon())


async def test_keys_that_are_left_are_throttling(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    async with ledger(world) as opened:
        proxy.fault = lambda *_: answer({"Responses": {}, "UnprocessedKeys": {world.table: {"Keys": []}}})
        with pytest.raises(DynamoDBError) as error:
            await opened.read("c", ["a"], soon())
        assert is_retryable(error.value)
        assert opened.stats.errors["UnprocessedKeys"] == 1


@pytest.mark.parametrize("reasons", [None, 7, [None], [{}], [7]])
async def test_reasons_of_an_unknown_form_are_left_out(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, reasons: Any
) -> None:
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    async with ledger(world) as opened:
        body = orjson.dumps({"__type": "x#TransactionCanceledException", "CancellationReasons": reasons})
        proxy.fault = lambda *_: web.Response(status=400, body=body)
        with pytest.raises(DynamoDBError) as error:
            await opened.write(opened.transaction("c", State(1, 0), [entry(1)]), 1, soon())
        assert error.value.reasons == ()
