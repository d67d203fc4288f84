"""Kept connections that were reset cost no request, and no write is made twice in secret."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import SO_LINGER, SOL_SOCKET

import orjson
import pytest

from service.customer.store.rows import make_row
from service.dynamodb.errors import HttpError, TableUnavailableError
from service.dynamodb.http import Pool
from service.dynamodb.writer import Item, Writer
from tests.service.dynamodb.test_http import OK, Server, pool, post, serving
from tests.support.dynamodb.table import open_table

COUNTS = pytest.mark.parametrize("count", [1, 10, 30])


def reset(writer: asyncio.StreamWriter) -> None:
    """With RST, as a load balancer does that has forgotten the connection."""
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def reply(body: object, status: int = 200) -> bytes:
    encoded = orjson.dumps(body)
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(encoded), encoded)


class Resetting:
    """Answers `answer`; when `forget` was called, each connection that was there is reset by its next request."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.calls: list[bytes] = []
        self._alive: set[asyncio.StreamWriter] = set()
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._together = asyncio.Barrier(1)

    async def together(self, count: int, pool: Pool) -> None:
        """Have that many kept connections."""
        self._together = asyncio.Barrier(count)
        await asyncio.gather(*(post(pool) for _ in range(count)))
        self._together = asyncio.Barrier(1)

    def forget(self) -> None:
        self._forgotten |= self._alive
        self.calls.clear()

    async def __call__(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        self._alive.add(writer)
        self.calls.append(request)
        if writer in self._forgotten:
            reset(writer)
            return
        await self._together.wait()
        writer.write(self.answer)


@asynccontextmanager
async def kept(count: int, answer: bytes = OK) -> AsyncIterator[tuple[Resetting, Server, Pool]]:
    resetting = Resetting(answer)
    async with serving(resetting) as (server, url), pool(url) as made:
        await resetting.together(count, made)
        assert (server.connections, len(made._free)) == (count, count)
        resetting.forget()
        yield resetting, server, made


@COUNTS
async def test_connections_that_were_reset_cost_no_request(count: int) -> None:
    async with kept(count) as (resetting, server, made):
        for _ in range(3):
            assert (await post(made)).status == 200
        assert len(resetting.calls) == 4, "one was lost, and sent again"
        assert server.connections == count + 1


@COUNTS
async def test_what_may_not_be_sent_twice_fails_and_the_next_call_succeeds(count: int) -> None:
    async with kept(count) as (resetting, server, made):
        with pytest.raises(HttpError, match="was lost"):
            await made.post("", b"", again=False)
        assert len(resetting.calls) == 1
        assert (await made.post("", b"", again=False)).status == 200
        assert server.connections == count + 1


async def test_a_connection_that_was_answered_on_later_is_kept() -> None:
    async with kept(3) as (_, _server, made):
        alive = made._free[0]
        alive.used_at += 60
        await post(made)
        assert made._free[0] is alive
        assert len(made._free) == 2


@pytest.mark.parametrize("heard", [b"H", OK[:20], OK[:-1]])
async def test_an_answer_that_had_begun_is_not_asked_for_again(heard: bytes) -> None:
    async def hang_up(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(heard)
        await writer.drain()
        writer.close()

    async with kept(1) as (_, server, made):
        server.answering = hang_up
        with pytest.raises(HttpError, match="was lost"):
            await post(made)


async def test_a_new_connection_that_is_reset_is_reported() -> None:
    """It has not ended in idleness: the server refuses work."""

    async def always(_: bytes, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    async with serving(always) as (server, url), pool(url) as made:
        with pytest.raises(HttpError, match="was lost"):
            await post(made)
        assert server.connections == 1


@COUNTS
async def test_reads_do_not_notice(count: int, aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    resetting = Resetting(reply({"Responses": {"balances": [make_row("1", 10)]}, "UnprocessedKeys": {}}))
    async with serving(resetting) as (_, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        async with open_table("balances") as table:
            await resetting.together(count, table._api._pool)
            resetting.forget()
            for _ in range(3):
                assert await table.get("1") == make_row("1", 10)
            assert not table.stats.errors
            assert len(resetting.calls) == 4


async def test_an_insert_that_may_have_been_executed_is_not_sent_again_in_secret(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent again, it would find its own row and say that another was there."""
    resetting = Resetting(reply({}))
    refused = reply({"__type": "x#ConditionalCheckFailedException", "message": "there is one"}, 400)
    async with serving(resetting) as (_, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        async with open_table("balances") as table:
            await resetting.together(10, table._api._pool)
            resetting.forget()
            with pytest.raises(TableUnavailableError):
                await table.insert(make_row("1", 10))
            assert len(resetting.calls) == 1
            assert await table.insert(make_row("1", 10)) is True
            await resetting.together(10, table._api._pool)
            resetting.forget()
            resetting.answer = refused
            assert await table.insert_or_retry(make_row("1", 10)) is False, "which may be its own row, as it says"
            assert len(resetting.calls) == 2


async def test_rows_of_the_archive_are_written_at_once(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    resetting = Resetting(reply({"UnprocessedItems": {}}))
    async with serving(resetting) as (_, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        writer = Writer("events", "p", "s", "ARCHIVE_TABLE")
        writer.open()
        await resetting.together(10, writer._api._pool)
        resetting.forget()
        item = Item(("1", "1"), b'{"p":{"S":"1"},"s":{"S":"1"}}')
        result = await writer.write([item])
        writer.close()
    assert result.written == [item]
    assert not result.lost
    assert not writer.errors
    assert len(resetting.calls) == 2
