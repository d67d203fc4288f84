"""Rows in batches, against the real engine, and through a proxy that throttles, refuses and half-processes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from local.servers import dynamodb
from service.dynamodb.writer import Item, Timing, Writer
from service.runtime.errors import ServiceError
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, answer, refusal
from tests.support.world import Servers

pytestmark = pytest.mark.usefixtures("aws")

ITEM_MAX = 400 * 1024


@pytest.fixture
async def table(servers: Servers) -> str:
    name = f"rows-{uuid.uuid4().hex[:12]}"
    await dynamodb.create_table(name, servers.dynamodb_env, ("p", "s"))
    return name


@asynccontextmanager
async def opened(table: str, keys: tuple[str, str] = ("p", "s"), *, timing: Timing = Timing()) -> AsyncIterator[Writer]:
    writer = Writer(table, *keys, "ARCHIVE_TABLE", timing=timing)
    writer.open()
    try:
        yield writer
    finally:
        writer.close()


@asynccontextmanager
async def through(
    proxy: FaultyDynamoDB, table: str, monkeypatch: pytest.MonkeyPatch, *, timing: Timing = Timing()
) -> AsyncIterator[Writer]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    async with opened(table, timing=timing) as writer:
        yield writer


def items(count: int, body: str = "x") -> list[Item]:
    return [
        Item((str(n), "1"), orjson.dumps({"p": {"S": str(n)}, "s": {"S": "1"}, "b": {"S": body}})) for n in range(count)
    ]


def written(servers: Servers, table: str) -> set[str]:
    return {row["p"]["S"] for row in dynamodb.client(servers.dynamodb_env).scan(TableName=table)["Items"]}


def keys(found: Sequence[Item]) -> list[str]:
    return sorted(item.key[0] for item in found)


async def test_a_batch_is_written(servers: Servers, table: str) -> None:
    async with opened(table) as writer:
        batch = items(25)
        result = await writer.write(batch)
    assert result.written == batch
    assert not result.refused
    assert not result.unwritten
    assert written(servers, table) == {str(n) for n in range(25)}


async def test_rows_that_can_never_be_written_are_found_and_their_neighbours_written(
    servers: Servers, table: str
) -> None:
    async with opened(table) as writer:
        batch = items(9)
        batch[3] = items(4, "x" * ITEM_MAX)[3]
        long = "k" * 2049
        batch[8] = Item((long, "1"), orjson.dumps({"p": {"S": long}, "s": {"S": "1"}}))
        result = await writer.write(batch)
    assert {item.key[0] for item, _ in result.refused} == {"3", long}
    assert all("size" in reason.lower() for _, reason in result.refused)
    assert keys(result.written) == ["0", "1", "2", "4", "5", "6", "7"]
    assert written(servers, table) == {"0", "1", "2", "4", "5", "6", "7"}


async def test_what_was_left_is_written_in_the_next_call(
    servers: Servers, table: str, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(_: str, call: Call) -> web.Response | None:
        puts = call["RequestItems"][table]
        if len(puts) == 1:
            return None
        call["RequestItems"][table], left = puts[: len(puts) // 2], puts[len(puts) // 2 :]
        dynamodb.client(servers.dynamodb_env).batch_write_item(RequestItems=call["RequestItems"])
        return answer({"UnprocessedItems": {table: left}})

    proxy.fault = half
    async with through(proxy, table, monkeypatch) as writer:
        result = await writer.write(items(8))
    assert keys(result.written) == [str(n) for n in range(8)]
    assert [len(call["RequestItems"][table]) for _, call in proxy.calls] == [4, 2, 1, 1]
    assert written(servers, table) == {str(n) for n in range(8)}


@pytest.mark.parametrize(
    "fault",
    [
        lambda: refusal("ThrottlingException"),
        lambda: refusal("ProvisionedThroughputExceededException"),
        lambda: refusal("InternalServerError", 500),
        lambda: refusal("AccessDeniedException"),
        lambda: refusal("ResourceNotFoundException"),
        lambda: answer({"nonsense": 1}),
        lambda: answer({"UnprocessedItems": {"t": []}, "more": [1]}),
        lambda: web.Response(status=502, text="bad gateway"),
        lambda: web.Response(status=413, text="too large"),
    ],
    ids=["throttling", "throughput", "500", "access", "gone", "nonsense", "other-table", "502", "413"],
)
async def test_a_row_is_not_blamed_for_what_the_next_call_may_do(
    fault: object, table: str, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.fault = lambda _action, _call: fault()  # type: ignore[operator]
    async with through(proxy, table, monkeypatch, timing=Timing(budget_s=0.2)) as writer:
        result = await writer.write(items(2))
        assert not result.refused
        assert keys([*result.unwritten, *result.written]) == ["0", "1"]
        proxy.fault = None
        again = await writer.write(items(2))
        assert keys(again.written) == ["0", "1"]


async def test_a_row_is_not_blamed_for_a_table_that_is_right_again_when_it_is_described(
    servers: Servers, table: str, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_right = False

    async def fault(action: str, _call: Call) -> web.Response | None:
        nonlocal is_right
        is_right |= action == "DescribeTable"
        return None if is_right else refusal("ValidationException")

    proxy.fault = fault
    async with through(proxy, table, monkeypatch) as writer:
        result = await writer.write(items(3))
    assert (keys(result.written), result.refused) == (["0", "1", "2"], [])
    assert written(servers, table) == {"0", "1", "2"}


@pytest.mark.parametrize("is_gateways", [False, True], ids=["DynamoDB", "a proxy"])
async def test_a_body_that_is_too_large_for_the_receiver_is_sent_in_parts(
    servers: Servers, table: str, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, is_gateways: bool
) -> None:
    def limit(_: str, call: Call) -> web.Response | None:
        if len(orjson.dumps(call)) < 1_000:
            return None
        if is_gateways:
            return web.Response(status=413, text="<html>413 Request Entity Too Large</html>")
        return refusal("RequestEntityTooLargeException", 413)

    proxy.fault = limit
    async with through(proxy, table, monkeypatch) as writer:
        result = await writer.write([*items(24), items(25, "x" * 1_000)[24]])
    assert keys([item for item, _ in result.refused]) == ["24"]
    assert keys(result.written) == keys(items(24))
    assert written(servers, table) == {str(n) for n in range(24)}


@pytest.mark.parametrize(("code", "refused"), [("AccessDeniedException", ["3"]), ("ThrottlingException", [])])
async def test_a_table_that_may_not_be_described_is_not_blamed_for_a_row(
    table: str, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, code: str, refused: list[str]
) -> None:
    """While it cannot be described just now, it may be the table's fault."""
    bad = items(5, "x" * ITEM_MAX)[3]
    proxy.fault = lambda action, _call: refusal(code) if action == "DescribeTable" else None
    async with through(proxy, table, monkeypatch, timing=Timing(budget_s=1.0)) as writer:
        result = await writer.write([*items(3), bad, *items(5)[4:]])
    assert keys([item for item, _ in result.refused]) == refused
    assert keys([*result.written, *result.unwritten, *(item for item, _ in result.refused)]) == [
        "0",
        "1",
        "2",
        "3",
        "4",
    ]


async def test_unprocessed_rows_that_were_not_sent_are_no_answer(
    table: str, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"PutRequest": {"Item": {"p": {"S": "other"}, "s": {"S": "1"}}}}
    proxy.fault = lambda _action, _call: answer({"UnprocessedItems": {table: [other]}})
    async with through(proxy, table, monkeypatch, timing=Timing(budget_s=0.1)) as writer:
        result = await writer.write(items(1))
    assert keys(result.unwritten) == ["0"]
    assert writer.errors["InvalidResponse"] >= 1


async def test_unprocessed_rows_of_another_table_are_no_answer_and_end_the_connection(
    table: str, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes on that connection next may be the answer to this call."""
    proxy.fault = lambda _action, call: answer({"UnprocessedItems": {"other": call["RequestItems"][table]}})
    async with through(proxy, table, monkeypatch, timing=Timing(budget_s=0.1)) as writer:
        result = await writer.write(items(2))
        assert keys(result.unwritten) == ["0", "1"]
        assert not writer._api._pool._free


async def test_rows_that_are_refused_are_found_however_long_that_takes(
    table: str, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that was cut short would begin with all of them again, and never come to its end."""

    async def slowly(action: str, _: Call) -> web.Response | None:
        if action == "DescribeTable":
            return None
        await asyncio.sleep(0.05)
        return refusal("ValidationException")

    proxy.fault = slowly
    async with through(proxy, table, monkeypatch, timing=Timing(budget_s=0.1)) as writer:
        result = await writer.write(items(9))
    assert keys([item for item, _ in result.refused]) == keys(items(9))
    assert not result.unwritten


async def test_says_what_is_wrong_with_the_table(servers: Servers, table: str) -> None:
    async with opened(table) as writer:
        await writer.check()
    async with opened(f"{table}-other") as writer:
        with pytest.raises(ServiceError, match="does not exist; deploy the stack, or correct ARCHIVE_TABLE"):
            await writer.check()
    async with opened(table, ("s", "p")) as writer:
        with pytest.raises(ServiceError, match=r"has the keys p \(S\), s \(S\); give a table with the keys s"):
            await writer.check()
