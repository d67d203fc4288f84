"""The table against the real engine, and through a proxy that throttles, stalls and lies."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.customer.store.rows import make_row
from service.dynamodb import table as module
from service.dynamodb.errors import DynamoDBError, TableUnavailableError
from service.dynamodb.table import DEADLINE_S, MAX_CALLS, Outcome, Table
from service.runtime.errors import ServiceError
from tests.support.dynamodb.faulty import Call, Fault, FaultyDynamoDB, answer, refusal, stall
from tests.support.dynamodb.table import as_rows, open_table, read
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def rows(world: World) -> dict[str, int]:
    balances = {str(number): number * 10 for number in range(1, 8)}
    world.put_rows(balances)
    return balances


@asynccontextmanager
async def through(proxy: FaultyDynamoDB, world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Table]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    async with open_table(world.table) as table:
        yield table


async def test_reads_balances_and_knows_which_clients_are_missing(world: World, rows: dict[str, int]) -> None:
    async with open_table(world.table) as table:
        assert await read(table, [*rows, "stranger", "ü", "a" * 128]) == {
            **as_rows(rows),
            "stranger": None,
            "ü": None,
            "a" * 128: None,
        }


async def test_insert_never_overwrites(world: World) -> None:
    async with open_table(world.table) as table:
        assert await table.insert(make_row("1", 500)) is True
        assert await table.insert(make_row("1", 600)) is False
        assert world.rows() == {"1": 500}


def leaving_unprocessed(world: World, rows: dict[str, int], leave: Callable[[list[str]], list[str]]) -> Fault:
    """An engine that answers some keys of a call and leaves the others for the next."""

    def fault(_action: str, call: Call) -> web.Response:
        asked = [key["id"]["S"] for key in call["RequestItems"][world.table]["Keys"]]
        left = leave(asked)
        found = [{"id": {"S": key}, "client_balance": {"N": str(rows[key])}} for key in asked if key not in left]
        unprocessed = {world.table: {"Keys": [{"id": {"S": key}} for key in left]}} if left else {}
        return answer({"Responses": {world.table: found}, "UnprocessedKeys": unprocessed})

    return fault


async def test_unprocessed_keys_are_asked_again(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = leaving_unprocessed(world, rows, lambda asked: asked[3:])
        assert await read(table, list(rows)) == as_rows(rows)
        assert [len(call["RequestItems"][world.table]["Keys"]) for _, call in proxy.calls] == [7, 4, 1]
        assert table.stats.errors["UnprocessedKeys"] == 2


async def test_keys_that_stay_unprocessed_fail_and_the_others_do_not(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = leaving_unprocessed(world, rows, lambda _: ["3"])
        found = await read(table, list(rows))
        assert isinstance(found.pop("3"), TableUnavailableError)
        assert found == {key: row for key, row in as_rows(rows).items() if key != "3"}
        assert len(proxy.calls) == MAX_CALLS


async def test_the_backoff_between_calls_has_full_jitter(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def no_wait(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = lambda *_: refusal("ThrottlingException")
        monkeypatch.setattr(asyncio, "sleep", no_wait)
        for _ in range(20):
            await read(table, ["1"])
        monkeypatch.setattr(asyncio, "sleep", sleep)
    for attempt, longest_s in ((0, 0.1), (1, 0.2)):
        drawn = waits[attempt::2]
        assert len(set(drawn)) == 20, "all at the same moment would be a storm"
        assert 0 <= min(drawn) < longest_s / 2 < max(drawn) <= longest_s


@pytest.mark.parametrize(
    "kind", ["ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"]
)
async def test_throttling_is_retried(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = lambda *_: refusal(kind) if len(proxy.calls) < MAX_CALLS else None
        assert await read(table, list(rows)) == as_rows(rows)
        assert len(proxy.calls) == MAX_CALLS
        proxy.calls.clear()
        proxy.fault = lambda *_: refusal(kind)
        assert all(isinstance(outcome, TableUnavailableError) for outcome in (await read(table, list(rows))).values())
        assert len(proxy.calls) == MAX_CALLS, "no retry storm"


async def test_a_stall_ends_at_the_deadline(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = stall(10)
        started = time.monotonic()
        assert all(isinstance(outcome, TableUnavailableError) for outcome in (await read(table, list(rows))).values())
        assert time.monotonic() - started < DEADLINE_S + 0.5
        proxy.fault = None
        assert await read(table, list(rows)) == as_rows(rows), "it recovers at once"


async def test_one_stalled_call_is_survived(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fault(_action: str, _call: Call) -> None:
        if len(proxy.calls) == 1:
            await asyncio.sleep(5)

    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = fault
        assert await read(table, list(rows)) == as_rows(rows)


@pytest.mark.parametrize(
    "garbage",
    [
        lambda: web.Response(body=b"<html>"),
        lambda: answer([]),
        lambda: answer({}),
        lambda: answer({"Responses": []}),
        lambda: answer({"Responses": {"t": 1}, "UnprocessedKeys": 7}),
        lambda: web.Response(status=400, body=b"what?"),
        lambda: web.Response(status=500),
        lambda: web.Response(status=503),
    ],
)
async def test_garbage_is_unavailability(
    world: World,
    rows: dict[str, int],
    proxy: FaultyDynamoDB,
    monkeypatch: pytest.MonkeyPatch,
    garbage: Callable[[], web.Response],
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = lambda *_: garbage()
        assert {type(outcome) for outcome in (await read(table, list(rows))).values()} == {TableUnavailableError}
        assert len(proxy.calls) <= MAX_CALLS


async def test_a_table_with_another_key_is_one_call_and_one_line(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = lambda *_: refusal("ValidationException")
        with pytest.raises(ServiceError, match="see that its key is a string named id"):
            await table.check()
        assert len(proxy.calls) == 1


async def test_what_keeps_a_table_from_being_used_is_said(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_table("missing-table") as table:
        with pytest.raises(ServiceError, match="table missing-table does not exist"):
            await table.check()
    async with through(proxy, world, monkeypatch) as table:
        await table.check()
        for kind in ("AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"):
            proxy.fault = lambda *_, kind=kind: refusal(kind)
            with pytest.raises(ServiceError, match=f"AWS refuses .*{kind}"):
                await table.check()


async def test_a_refused_connection_is_unavailability(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9")
    async with open_table(world.table) as table:
        assert isinstance((await read(table, ["1"]))["1"], TableUnavailableError)
        with pytest.raises(
            ServiceError,
            match=r"127\.0\.0\.1:9 refuses .*; see what listens .* AWS_ENDPOINT",
        ):
            await table.check()


async def test_no_region_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(ServiceError, match="AWS_REGION is not set"):
        async with open_table("t"):
            pass


async def test_no_credentials_are_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    async with open_table(world.table) as table:
        with pytest.raises(ServiceError, match=r"AWS refuses .*NoCredentials"):
            await table.check()


async def test_what_a_call_found_does_not_wait_for_what_it_left(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = leaving_unprocessed(world, rows, lambda _: ["3"])
        given = list[tuple[set[str], int]]()

        def give(part: Mapping[str, Outcome]) -> None:
            given.append((set(part), len(proxy.calls)))

        await table.read(list(rows), give)
        assert given[0] == (rows.keys() - {"3"}, 1), "it is given before the next call is made"
        assert [keys for keys, _ in given[1:]] == [{"3"}]


async def test_no_wait_goes_beyond_the_deadline(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second wait would end behind the deadline: nobody waits at all then, and there is no third call."""
    waits = {1: 0.0, 2: 3_600.0}
    monkeypatch.setattr(module, "DEADLINE_S", 600.0)
    monkeypatch.setattr(module, "backoff_s", waits.__getitem__)
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = lambda *_: refusal("ThrottlingException")
        async with asyncio.timeout(60):
            assert isinstance(await table.get("1"), TableUnavailableError)
        assert len(proxy.calls) == 2


async def test_a_read_is_consistent_when_it_is_asked_to_be(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        assert await table.get("3", consistent=True) == as_rows(rows)["3"]
        assert await table.get("3") == as_rows(rows)["3"]
        asked = [call["RequestItems"][world.table].get("ConsistentRead") for _, call in proxy.calls]
        assert asked == [True, None]


async def test_an_insert_is_tried_three_times_while_the_database_is_busy(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        proxy.fault = lambda *_: refusal("ThrottlingException") if len(proxy.calls) < 3 else None
        assert await table.insert_or_retry(make_row("1", 500)) is True
        assert table.stats.errors == {"ThrottlingException": 2}
        proxy.calls.clear()
        assert await table.insert_or_retry(make_row("1", 600)) is False
        proxy.calls.clear()
        proxy.fault = lambda *_: refusal("ThrottlingException")
        with pytest.raises(TableUnavailableError, match="busy"):
            await table.insert_or_retry(make_row("2", 500))
        assert len(proxy.calls) == 3
        assert table.stats.errors == {"ThrottlingException": 7}, "the last call's too"
        proxy.calls.clear()
        proxy.fault = lambda *_: refusal("AccessDeniedException")
        with pytest.raises(DynamoDBError, match="AccessDenied"):
            await table.insert_or_retry(make_row("2", 500))
        assert len(proxy.calls) == 1, "that will not change"
    assert world.rows() == {"1": 500}


async def test_what_failed_and_how_long_it_took_is_counted(
    world: World, rows: dict[str, int], proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with through(proxy, world, monkeypatch) as table:
        assert table.problem is None
        proxy.fault = lambda *_: refusal("ThrottlingException")
        await read(table, list(rows))
        assert table.problem == "the database is busy (ThrottlingException)"
        proxy.fault = lambda *_: web.Response(body=b"<html>")
        await read(table, ["1"])
        assert table.problem == "HTTP 200 with a body that is not DynamoDB's"
        proxy.fault = None
        await read(table, ["1"])
        assert table.problem is None
        assert table.stats.errors == {"ThrottlingException": 3, "InvalidResponse": 3}
        assert (sum(table.stats.call_seconds.counts), sum(table.stats.batch_keys.counts)) == (7, 3)
        assert 0 < table.stats.call_seconds.total < 60
        assert table.stats.batch_keys.total == 9


async def test_it_is_opened_once_and_closed_if_it_was_opened(world: World) -> None:
    table = Table(world.table, "id", "DDB_TABLE")
    table.close()
    table.open()
    pool = table._api._pool
    table.open()
    assert table._api._pool is pool
    await table.check()
    assert len(pool._free) == 1
    table.close()
    assert pool._free == []


async def test_an_endpoint_that_is_no_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "ftp://127.0.0.1")
    with pytest.raises(ServiceError, match="AWS_ENDPOINT_URL_DYNAMODB"):
        Table("t", "id", "DDB_TABLE").open()


class Asked(Exception):
    """Ends a read at its call."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.sampled_from(['","', '"', "\\", '\\",\\"', '"}},{"id":{"S":"']),
        min_size=1,
        unique=True,
    )
)
@example([","])
@example([",", "a"])
@example(["a", ","])
@example(['",'])
@example(["a", '",', "b"])
@example(["\\"])
async def test_the_body_is_json_whatever_the_keys_are(keys: list[str]) -> None:
    asked: list[Any] = []

    async def call(_action: str, request: bytes, _deadline: float) -> None:
        asked.append(json.loads(request))
        raise Asked

    table = Table('balances"', "id", "DDB_TABLE")
    table._api = SimpleNamespace(call=call)  # type: ignore[assignment]
    for consistent in (False, True):
        with suppress(Asked):
            await table._batch_get(keys, consistent, math.inf)
    of_keys = {"Keys": [{"id": {"S": key}} for key in keys]}
    assert asked == [{"RequestItems": {'balances"': of_keys | more}} for more in ({}, {"ConsistentRead": True})]
