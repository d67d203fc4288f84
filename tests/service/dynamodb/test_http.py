"""The HTTP pool against servers that answer byte by byte, badly, late or never."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trustme

from local.process import claim_port
from service.dynamodb import http
from service.dynamodb.errors import HttpError
from service.dynamodb.http import Pool, Response
from tests.support.world import eventually

Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Given a request with its body: write what the server answers."""


class Server:
    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                request = head + await reader.readexactly(length)
                self.requests.append(request)
                await self.answering(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(answering: Answering, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, str]]:
    server = Server(answering)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield server, f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        listening.close()


@asynccontextmanager
async def pool(url: str, timeout_s: float = 60.0) -> AsyncIterator[Pool]:
    made = Pool(url, timeout_s)
    try:
        yield made
    finally:
        made.close()


async def post(pool: Pool, headers: str = "", body: bytes = b"", timeout_s: float = 5.0) -> Response:
    return await pool.post(headers, body, asyncio.get_running_loop().time() + timeout_s)


def writes(*parts: bytes) -> Answering:
    async def answering(_: bytes, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return answering


UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nxx"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def test_a_request_is_well_formed_and_its_connection_is_used_again() -> None:
    async with serving(writes(OK)) as (server, url), pool(url) as made:
        for _ in range(3):
            assert (await post(made, "X-A: 1\r\n", b"body"))[:2] == (200, b"{}")
        expected = f"POST / HTTP/1.1\r\nHost: {made.host}\r\nX-A: 1\r\nContent-Length: 4\r\n\r\nbody".encode()
        assert server.requests == [expected] * 3
        assert server.connections == 1


async def test_calls_at_once_have_a_connection_each_and_their_own_answers() -> None:
    async def echo(request: bytes, writer: asyncio.StreamWriter) -> None:
        body = request.partition(b"\r\n\r\n")[2]
        await asyncio.sleep(0.001 * (10 - int(body)))  # the last asked is answered first
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with serving(echo) as (server, url), pool(url) as made:
        answers = await asyncio.gather(*(post(made, "", str(number).encode()) for number in range(10)))
        assert [answer.body for answer in answers] == [str(number).encode() for number in range(10)]
        assert server.connections == 10


@pytest.mark.parametrize(
    "parts",
    [
        [OK[at : at + 1] for at in range(len(OK))],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n}\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{", b"}"],
        [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK],
    ],
    ids=["byte by byte", "chunked", "to be closed", "interim ones before it"],
)
async def test_an_answer_in_any_form_is_read(parts: list[bytes]) -> None:
    async with serving(writes(*parts)) as (_, url), pool(url) as made:
        for _ in range(2):
            assert (await post(made))[:2] == (200, b"{}")


@pytest.mark.parametrize(
    "parts",
    [[b"SSH-2.0-OpenSSH_9.2\r\n"], [b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n"], [b"\x00" * 100], [UPGRADE]],
)
async def test_what_is_not_http_is_said(parts: list[bytes]) -> None:
    async with serving(writes(*parts)) as (server, url), pool(url) as made:
        with pytest.raises(HttpError, match="is not HTTP"):
            await post(made)
        server.answering = writes(OK)
        assert (await post(made)).status == 200, "over a new connection"


async def test_an_answer_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.dynamodb.http.MAX_BYTES", 1000)
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 600
    async with serving(writes(endless, b"x" * 600)) as (server, url), pool(url) as made:
        with pytest.raises(HttpError, match="more than 1,000 bytes"):
            await post(made)
        server.answering = writes(OK)
        assert (await post(made)).status == 200, "over a new connection"


async def test_a_lost_connection_is_said_and_not_used_again() -> None:
    async def hang_up(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK[:20])
        await writer.drain()
        writer.close()

    async with serving(writes(OK)) as (server, url), pool(url) as made:
        await post(made)
        server.answering = hang_up
        with pytest.raises(HttpError, match=r"connection to 127\.0\.0\.1:\d+ was lost: closed"):
            await post(made)
        server.answering = writes(OK)
        assert (await post(made)).status == 200


async def test_a_late_answer_is_a_timeout_and_never_the_next_calls() -> None:
    late = asyncio.Event()

    async def wait(_: bytes, writer: asyncio.StreamWriter) -> None:
        await late.wait()
        writer.write(b"HTTP/1.1 500 Late\r\nContent-Length: 0\r\n\r\n")

    async with serving(wait) as (server, url), pool(url) as made:
        with pytest.raises(TimeoutError):
            await post(made, timeout_s=0.1)
        late.set()
        server.answering = writes(OK)
        assert (await post(made)).status == 200


async def test_a_call_that_is_given_up_takes_its_connection_along() -> None:
    asked = asyncio.Event()

    async def never(_: bytes, __: asyncio.StreamWriter) -> None:
        asked.set()

    async with serving(never) as (server, url), pool(url) as made:
        call = asyncio.create_task(post(made))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server.answering = writes(OK)
        assert (await post(made)).status == 200
        assert server.connections == 2


async def test_the_time_limit_of_a_call_ends_with_the_call() -> None:
    first_ends = asyncio.Event()

    async def slow_afterwards(_: bytes, writer: asyncio.StreamWriter) -> None:
        if first_ends.is_set():
            await asyncio.sleep(0.7)  # past the limit of the first call, and inside its own
        writer.write(OK)

    async with serving(slow_afterwards) as (server, url), pool(url) as made:
        assert (await post(made, timeout_s=1.0)).status == 200
        first_ends.set()
        await asyncio.sleep(0.6)
        assert (await post(made, timeout_s=1.0)).status == 200
        assert server.connections == 1


async def test_a_shorter_time_limit_than_the_call_before_had_is_kept() -> None:
    async def never(_: bytes, __: asyncio.StreamWriter) -> None:
        """Says nothing."""

    async with serving(writes(OK)) as (server, url), pool(url) as made:
        await post(made, timeout_s=60.0)
        server.answering = never
        with pytest.raises(TimeoutError):
            await post(made, timeout_s=0.1)
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"],
    ids=["not HTTP", "Connection: close"],
)
async def test_a_connection_that_is_not_used_again_is_closed(answer: bytes) -> None:
    """By this side: the server would keep it."""
    async with serving(writes(answer)) as (server, url), pool(url) as made:
        with contextlib.suppress(HttpError):
            await post(made)
        await eventually(lambda: server.open == 0, what="the end of the connection")
        server.answering = writes(OK)
        assert (await post(made)).status == 200
        assert (server.connections, server.open) == (2, 1)
        made.close()
        await eventually(lambda: server.open == 0, what="the end of the pool's connections")


async def test_a_pool_that_is_closed_keeps_no_connection_of_the_calls_in_flight() -> None:
    release = asyncio.Event()

    async def when_released(_: bytes, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(OK)

    async with serving(when_released) as (server, url), pool(url) as made:
        calls = [asyncio.create_task(post(made)) for _ in range(5)]
        await eventually(lambda: len(server.requests) == 5, what="five calls")
        made.close()
        release.set()
        assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
        await eventually(lambda: server.open == 0, what="the end of all connections")


async def test_a_pool_whose_idle_connections_were_dropped_lives_on() -> None:
    async with serving(writes(OK)) as (server, url), pool(url) as made:
        for connections in (1, 2):
            for _ in range(2):
                await post(made)
            assert server.connections == connections
            made.drop_idle()
            await eventually(lambda: server.open == 0, what="the end of the idle ones")


async def test_a_connection_that_was_idle_for_long_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(writes(OK)) as (server, url), pool(url) as made:
        await post(made)
        monkeypatch.setattr(http, "IDLE_S", 0.0)
        await post(made)
        assert server.connections == 2


async def test_connections_that_died_in_silence_cost_one_call() -> None:
    """A path that is gone without a word took all of them along."""

    async def together(_: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)  # so that each has a connection of its own
        writer.write(OK)

    async with serving(together) as (server, url), pool(url, timeout_s=0.2) as made:
        await asyncio.gather(*(post(made) for _ in range(5)))
        assert server.connections == 5
        old = server.requests[:]

        async def only_new_ones(_: bytes, writer: asyncio.StreamWriter) -> None:
            if server.connections > 5:
                writer.write(OK)

        server.answering = only_new_ones
        with pytest.raises(TimeoutError):
            await post(made, timeout_s=0.01)  # a caller's own deadline is no reason to give up the others
        with pytest.raises(TimeoutError):
            await post(made)
        assert (await post(made)).status == 200
        assert server.connections == 6
        assert len(server.requests) == len(old) + 3


async def test_a_connection_on_which_a_request_is_not_all_sent_is_not_used_again() -> None:
    """Its rest would come before the next request."""
    release = asyncio.Event()

    async def refuse_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await release.wait()
        writer.close()

    listening = await asyncio.start_server(refuse_early, "127.0.0.1", 0)
    async with pool(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}") as made:
        for _ in range(2):
            assert (await post(made, body=b"x" * 16_000_000)).status == 413
    release.set()
    listening.close()


async def test_bytes_nobody_asked_for_end_the_connection() -> None:
    for more_than_asked in (OK, OK[:20], b"HTTP", b"zz"):
        async with serving(writes(OK + more_than_asked)) as (server, url), pool(url) as made:
            for _ in range(3):
                assert (await post(made))[:2] == (200, b"{}")
            assert server.connections == 3, more_than_asked
    more = asyncio.Event()

    async def later_too(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        await more.wait()
        writer.write(OK)

    async with serving(later_too) as (server, url), pool(url) as made:
        await post(made)
        more.set()
        await eventually(lambda: server.open == 0, what="the end of the connection")
        server.answering = writes(OK)
        await post(made)
        assert server.connections == 2


async def test_a_refused_connection_and_a_wrong_address_are_said() -> None:
    async with pool(f"http://127.0.0.1:{claim_port(0, '')}") as made:
        with pytest.raises(HttpError, match=r"127\.0\.0\.1:\d+ refuses connections"):
            await post(made)
    for url in ("dynamodb.local", "ftp://dynamodb", "http://"):
        with pytest.raises(ValueError, match="is not an HTTP address"):
            Pool(url, 1.0)


async def test_a_connection_that_is_not_made_in_time_is_a_timeout() -> None:
    """Of a server that is too busy to take one: it is the same as an answer that does not come."""
    with socket.socket() as busy, contextlib.ExitStack() as waiting:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for _ in range(3):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(busy.getsockname())
        async with pool(f"http://127.0.0.1:{busy.getsockname()[1]}") as made:
            with pytest.raises(TimeoutError):
                await post(made, timeout_s=0.2)


async def test_a_path_is_asked_for() -> None:
    async with serving(writes(OK)) as (server, url), pool(f"{url}/local/") as made:
        await post(made)
        assert server.requests[0].startswith(b"POST /local/ HTTP/1.1\r\n")


async def relay(port: int, wait_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """To that port, the first bytes late."""
    await asyncio.sleep(wait_s)
    its_reader, its_writer = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)
        target.close()

    await asyncio.gather(pump(reader, its_writer), pump(its_reader, writer))


async def test_a_slow_handshake_takes_nothing_from_the_time_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that gave up both would make the connection again, for ever."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def slowly(_: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        writer.write(OK)

    async with serving(slowly, context) as (_, url):
        listening = await asyncio.start_server(partial(relay, int(url.rpartition(":")[2]), 0.5), "127.0.0.1", 0)
        with authority.cert_pem.tempfile() as bundle:
            monkeypatch.setenv("SSL_CERT_FILE", bundle)
            port = listening.sockets[0].getsockname()[1]
            async with pool(f"https://127.0.0.1:{port}", timeout_s=0.8) as made:
                assert (await made.post("", b"")).status == 200
                with pytest.raises(TimeoutError):
                    await post(made, timeout_s=0.2)
        listening.close()


async def test_tls_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with serving(writes(OK), context) as (_, url):
        async with pool(url) as made:
            with pytest.raises(HttpError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted"):
                await post(made)
        with authority.cert_pem.tempfile() as bundle:
            monkeypatch.setenv("SSL_CERT_FILE", bundle)
            async with pool(url) as made:
                assert (await post(made)).status == 200
