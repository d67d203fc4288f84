"""Reads of the table of readings that fail, and what the table must be."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from local.servers import dynamodb
from service.contracts import devices as contract
from service.devices.query import table
from service.devices.query.table import Readings
from service.dynamodb.errors import DynamoDBError, TableUnavailableError
from service.runtime.errors import ServiceError
from tests.support.devices.rows import opened, put, readings_table, row
from tests.support.dynamodb.faulty import FaultyDynamoDB, answer, refusal
from tests.support.world import Servers


@pytest.fixture
async def readings(proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Readings]:
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    async with readings_table(proxy.env) as readings:
        proxy.calls.clear()
        yield readings


async def test_the_last_reading_is_one_query_and_not_consistent(proxy: FaultyDynamoDB, readings: Readings) -> None:
    await put(readings.name, proxy.env, [row("d", 5, 1), row("d", 7, 2), row("d", 6, 3)])
    proxy.calls.clear()
    last = await readings.last("d")
    assert last
    assert (last.epoch, last.entry_id, last.sensor, last.received_ms) == (7, 2, "t", 7_250)
    assert await readings.last("another") is None
    (action, call), _ = proxy.calls
    assert action == "Query"
    assert "ConsistentRead" not in call
    assert call["Limit"] == table.LAST_ROWS


async def test_the_last_reading_is_asked_for_again_and_then_not_available(
    proxy: FaultyDynamoDB, readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(readings.name, proxy.env, [row("d", 5, 1)])
    proxy.calls.clear()
    proxy.fault = lambda *_: refusal("ThrottlingException") if len(proxy.calls) < 3 else None
    assert await readings.last("d")
    assert readings.errors == {"ThrottlingException": 2}
    assert readings.problem is None
    proxy.fault = lambda *_: web.Response(status=503)
    with pytest.raises(TableUnavailableError, match="the database is not available"):
        await readings.last("d")
    assert readings.problem == "HTTP 503"
    proxy.fault = lambda *_: answer({"Items": [row("another", 5)]})
    with pytest.raises(TableUnavailableError):
        await readings.last("d")
    assert readings.problem == "rows of keys that were not asked for"
    proxy.calls.clear()
    proxy.fault = lambda *_: refusal("AccessDeniedException")
    with pytest.raises(DynamoDBError):
        await readings.last("d")
    assert len(proxy.calls) == 1, "not asked again"


async def test_a_page_is_read_when_it_is_asked_for(proxy: FaultyDynamoDB, readings: Readings) -> None:
    await put(readings.name, proxy.env, [row(f"d{number}", 5, number) for number in range(25)])
    proxy.calls.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "PAGE_ROWS", 10)
        pages = readings.scan()
        assert not proxy.calls
        for number, size in enumerate((10, 10, 5), 1):
            assert len(await anext(pages)) == size
            assert len(proxy.calls) == number
        with pytest.raises(StopAsyncIteration):
            await anext(pages)
    assert {action for action, _ in proxy.calls} == {"Scan"}


async def test_a_stream_reads_what_it_sends_and_no_more(proxy: FaultyDynamoDB, readings: Readings) -> None:
    long = row("d", 5, 1, sensor={"S": "x" * 4_000}, other={"S": "y" * 100_000})
    await put(readings.name, proxy.env, [long])
    for pages in (readings.scan(), readings.range("d", 1, 9, 0, newest_first=True)):
        ((reading,),) = [page async for page in pages]
        assert (reading.epoch, reading.facility, reading.sensor) == (5, "7", None)
    last = await readings.last("d")
    assert last
    assert last.sensor == "x" * 4_000


async def test_a_table_is_good_if_it_has_the_keys_and_may_be_read_both_ways(
    proxy: FaultyDynamoDB, readings: Readings, servers: Servers
) -> None:
    await readings.check()
    for denied in ("Query", "Scan"):
        proxy.fault = lambda action, _, denied=denied: refusal("AccessDeniedException") if action == denied else None
        with pytest.raises(ServiceError, match=f"AWS refuses to let this task use table {readings.name}"):
            await readings.check()
    proxy.fault = None
    async with opened("nowhere") as other:
        with pytest.raises(ServiceError, match=r"table nowhere does not exist; .* correct DEVICES_TABLE"):
            await other.check()
    await dynamodb.create_table(f"{readings.name}-2", proxy.env, (contract.PARTITION_KEY, "other"))
    async with opened(f"{readings.name}-2") as other:
        with pytest.raises(ServiceError, match=r"see that it has the keys device and reading \(S\)"):
            await other.check()
