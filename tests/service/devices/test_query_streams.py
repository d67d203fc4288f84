"""Streams of 20,000 rows: what is in flight is bounded, and one that does not reach its end says so.

The rows are made here, page by page as the server asks for them; the table's client, gRPC and its connections are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.protobuf import empty_pb2

from service.devices.query import server as streams
from service.devices.query import table
from service.devices.query.query_pb2 import SensorRows
from tests.support.devices.rows import Served, opened, row, served
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, answer, refusal
from tests.support.queue.http2 import call, connect
from tests.support.world import eventually

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ROWS = 20_000
BYTES = 5 + SensorRows(entry_id=ROWS, facility_id=7, device="d", temp=21.5, rh=40, epoch=ROWS).ByteSize()
"""A row on the wire, with gRPC's five bytes; HTTP/2's frames come on top."""
WINDOW = 65_535
"""https://httpwg.org/specs/rfc9113.html#InitialWindowSize"""
BUFFER = 65_536
"""gRPC's, between a write that has returned and the window: GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE"""
AHEAD = (WINDOW + BUFFER) // BYTES + 2 * table.PAGE_ROWS
"""Most rows that may be on their way: in window and buffer, and a page that is read while the last one is sent."""


@dataclass
class Endless:
    """A table of `count` rows. It counts the rows that were read from it."""

    count: int = ROWS
    read: int = 0
    most_ahead: int = 0
    taken: int = 0
    """How many rows the client says it has."""
    fails: dict[int, list[Any]] = field(default_factory=dict)
    """Page -> what its calls get in place of rows, one after another; None: a call that is never answered."""

    async def __call__(self, action: str, body: Call) -> web.Response:
        assert action == "Scan"
        start = int(body.get("ExclusiveStartKey", {"n": {"N": "0"}})["n"]["N"])
        if queue := self.fails.get(start // table.PAGE_ROWS):
            instead = queue.pop(0) if len(queue) > 1 else queue[0]
            if instead is None:
                await asyncio.sleep(3600)
            if instead != "rows":
                return instead()  # type: ignore[no-any-return]
        end = min(self.count, start + body["Limit"])
        self.read += end - start
        self.most_ahead = max(self.most_ahead, self.read - self.taken)
        more = {"LastEvaluatedKey": {"n": {"N": str(end)}}} if end < self.count else {}
        return answer({"Items": [row("d", number, number) for number in range(start, end)], **more})


def throttled() -> web.Response:
    return refusal("ProvisionedThroughputExceededException")


def denied() -> web.Response:
    return refusal("AccessDeniedException")


@asynccontextmanager
async def endless(proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, **given: Any) -> AsyncIterator[Any]:
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    proxy.fault = rows = Endless(**given)
    async with opened("readings") as readings, served(readings) as it:
        yield rows, it


async def ended(stream: Any) -> tuple[int, grpc.StatusCode, str]:
    """Read a stream to its end; return how many rows came, and how it ended."""
    rows = 0
    try:
        while await stream.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
            rows += 1
    except grpc.aio.AioRpcError:
        pass
    return rows, await stream.code(), await stream.details()


async def test_20_000_rows_come_in_order_and_few_are_in_flight_however_slow_the_client_is(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endless(proxy, monkeypatch) as (rows, it):
        numbers = []
        async for each in it.scan():
            numbers.append(each.entry_id)
            rows.taken = len(numbers)
            if rows.taken % 5_000 == 1:
                await asyncio.sleep(0.3)  # the server may run ahead
        assert numbers == list(range(ROWS))
        assert rows.most_ahead <= AHEAD < ROWS / 3
        await eventually(lambda: it.query.streams == 0, what="the stream's end")
        assert (it.query.counts.rows, it.query.counts.broken) == (ROWS, 0)


async def test_a_client_that_reads_nothing_holds_a_window_and_leaves_nothing_behind(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endless(proxy, monkeypatch) as (rows, it):
        with connect(f"127.0.0.1:{it.port}") as client:
            client.sendall(call("GetSensorRows", empty_pb2.Empty(), 1, "service.Query"))
            await eventually(lambda: rows.read * BYTES > WINDOW, what="a window full of rows")
            await asyncio.sleep(0.5)
            assert rows.read <= AHEAD
            assert it.query.streams == 1
        await eventually(lambda: it.query.streams == 0, what="the end of a stream whose client is gone")
        assert rows.read <= AHEAD
        assert it.query.calls.refused == it.query.counts.broken == 0, "that is no failure"


async def test_a_client_that_goes_away_ends_its_stream_and_no_other(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endless(proxy, monkeypatch, count=10_000) as (_, it):
        first, second = it.scan(), it.scan()
        for stream in (first, second):
            assert (await stream.read()).entry_id == 0
        first.cancel()
        await eventually(lambda: it.query.streams == 1, what="the end of the first stream")
        assert await ended(second) == (9_999, grpc.StatusCode.OK, "")
        assert it.query.counts.broken == 0


async def test_a_table_that_is_throttled_for_a_while_only_delays(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = {0: [throttled, "rows"], 3: [throttled, throttled, lambda: web.Response(status=500), "rows"]}
    async with endless(proxy, monkeypatch, fails=fails, count=2_000) as (_, it):
        assert await ended(it.scan()) == (2_000, grpc.StatusCode.OK, "")


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (throttled, "the database is busy; try again"),
        (None, "the database did not answer in time; try again"),
        (lambda: web.Response(status=200, body=b'{"Items":'), "the database is not available; try again"),
        (lambda: answer({"Count": 3}), "the database is not available; try again"),
        (lambda: answer({"Items": [], "LastEvaluatedKey": {"n": {"N": "1000"}}}),
         "the database is not available; try again"),
        (denied, "internal error"),
    ],
    ids=["throttled", "silent", "cut off", "no rows", "a page without an end", "denied"],
)  # fmt: skip
async def test_a_stream_that_breaks_off_says_so_and_after_how_many_rows(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, fail: Any, said: str
) -> None:
    monkeypatch.setattr(table, "PAGE_S", 1.5)
    async with endless(proxy, monkeypatch, fails={4: [fail]}) as (_, it):
        came, code, details = await ended(it.scan())
        assert (came, code) == (4 * table.PAGE_ROWS, UNAVAILABLE)
        assert details == f"the stream broke off after {came} rows: {said}"
        assert it.query.counts.broken == it.query.calls.refused == 1
        assert it.query.streams == 0


async def test_a_stream_that_cannot_begin_says_so(proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch) -> None:
    async with endless(proxy, monkeypatch, fails={0: [denied]}) as (_, it):
        said = "the stream broke off after 0 rows: internal error"
        assert await ended(it.scan()) == (0, UNAVAILABLE, said)


async def test_a_server_that_stops_breaks_streams_off_and_each_says_after_how_many_rows(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endless(proxy, monkeypatch, fails={1: [None]}) as (rows, it):
        waits = it.scan()
        await eventually(lambda: len(proxy.calls) == 2, what="a stream that has sent a page, and waits for the next")
        rows.fails.clear()
        unread = it.scan()
        assert (await unread.read()).entry_id == 0
        draining = asyncio.create_task(it.server.drain(30))
        said = "the stream broke off after {} rows: the server stops; call again"
        assert await ended(waits) == (table.PAGE_ROWS, UNAVAILABLE, said.format(table.PAGE_ROWS))
        came, code, details = await ended(unread)
        assert (code, details) == (UNAVAILABLE, said.format(came + 1))
        assert came + 1 < ROWS
        await draining


async def test_a_call_that_comes_while_the_server_stops_gets_unavailable(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endless(proxy, monkeypatch) as (_, it):
        await it.query.stop()
        assert await ended(it.scan()) == (0, UNAVAILABLE, "the server stops; call again")
        assert not proxy.calls


async def test_a_drain_does_not_wait_for_a_client_that_never_reads(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with endless(proxy, monkeypatch) as (rows, it):
        with connect(f"127.0.0.1:{it.port}") as client:
            client.sendall(call("GetSensorRows", empty_pb2.Empty(), 1, "service.Query"))
            await eventually(lambda: rows.read * BYTES > WINDOW, what="a window full of rows")
            await asyncio.wait_for(it.server.drain(0.5), 30)
            assert it.query.streams == 0


async def test_more_streams_than_there_is_room_for_are_refused_until_one_ends(
    proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STREAMS", 2)
    async with endless(proxy, monkeypatch) as (_, it):
        open_ = [it.scan(), it.scan()]
        for stream in open_:
            await stream.read()
        assert await ended(it.scan()) == (0, UNAVAILABLE, "2 streams are open; end one, or call later")
        open_[0].cancel()
        await eventually(lambda: it.query.streams == 1, what="room")
        await _first(it)


async def _first(it: Served) -> None:
    stream = it.scan()
    assert (await stream.read()).entry_id == 0
    stream.cancel()
