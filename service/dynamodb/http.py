"""POSTs to one origin over kept-alive connections, parsed by httptools.

For a small body to one host, a general client's cost is most of the way from a request to its reply: aiohttp's was
as much as everything else together (docs/adr/0008-dynamodb-client.md).
"""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus
from math import inf
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from service.dynamodb.errors import HttpError

TICK_S: Final = 0.001
"""The event loop counts in milliseconds: a timer may be so much too early."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of one response: DynamoDB's have up to 16 MB of data, and escaped in JSON it is several times as long."""
IDLE_S: Final = 20.0
"""A connection that was idle for longer is not used again: the other side may be closing it."""


class Response(NamedTuple):
    status: int
    body: bytes


class Pool:
    """Connections to one origin. A call has one to itself; the one used last comes first (LIFO)."""

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url} is not an HTTP address")
        self.host = parts.netloc
        self._timeout_s = timeout_s
        self._free: list[_Connection] = []
        self._loop = asyncio.get_running_loop()
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = parts.hostname, parts.port or (443 if self._tls else 80)
        self.path = parts.path or "/"
        self._head = f"POST {self.path} HTTP/1.1\r\nHost: {self.host}\r\n".encode()

    async def post(self, headers: str, body: bytes, deadline: float = inf) -> Response:
        """`headers` are lines, each with its CRLF; `deadline` is a time of the loop's clock.

        A new connection and the answer have `timeout_s` each: on a busy CPU a handshake is slow, and one that times out
        starts from zero at the next call. Raises `HttpError`, and `TimeoutError` after that, or at the deadline.
        """
        connection = self._reusable()
        if connection is None:
            connection = await self._connect(self._ends(deadline))
        request = b"%b%bContent-Length: %d\r\n\r\n%b" % (self._head, headers.encode(), len(body), body)
        began, ends = self._loop.time(), self._ends(deadline)
        try:
            return await connection.call(request, ends)
        except TimeoutError:
            if ends < deadline:  # a caller in a hurry says nothing about the others
                self._distrust(began)
            raise
        finally:
            if connection.idle:
                self._free.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        while self._free:
            self._free.pop().close()

    def _distrust(self, since: float) -> None:
        """Close what was not answered on since then: a path that died in silence took all its connections along."""
        for connection in [free for free in self._free if free.used_at < since]:
            self._free.remove(connection)
            connection.close()

    def _ends(self, deadline: float) -> float:
        return min(deadline, self._loop.time() + self._timeout_s)

    def _reusable(self) -> _Connection | None:
        now = self._loop.time()
        while self._free:
            connection = self._free.pop()
            if connection.idle and now - connection.used_at < IDLE_S:
                return connection
            connection.close()
        return None

    async def _connect(self, deadline: float) -> _Connection:
        host, port = self._address
        try:
            async with asyncio.timeout_at(deadline):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self._loop), host, port, ssl=self._tls
                )
        except TimeoutError:
            raise
        except OSError as error:
            raise HttpError(f"no connection to {self.host}: {error}") from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.idle = True
        """Whether another call may be made on it."""
        self.used_at = loop.time()
        self._loop = loop
        self._transport: asyncio.Transport
        self._response: asyncio.Future[Response] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Set for this call's deadline or an earlier one's: a new timer for each call costs CPU."""
        self._body: list[bytes] = []
        self._size = 0

    async def call(self, request: bytes, deadline: float) -> Response:
        self.idle = False
        self._response = self._loop.create_future()
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            self._arm()
        self._body, self._size = [], 0
        self._transport.write(request)
        return await self._response

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._response and not self._response.done():
            if self._deadline - self._loop.time() > TICK_S:
                self._arm()
            else:
                self._fail(TimeoutError())

    def close(self) -> None:
        self.idle = False
        if self._timer:
            self._timer.cancel()
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        self.idle = False
        if self._response and not self._response.done():
            self._response.set_exception(error)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is not a subclass

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._response.done():
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(HttpError(f"the response is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(HttpError(f"the connection was lost: {exc or 'closed'}"))

    # httptools

    def on_message_begin(self) -> None:
        if self._response and self._response.done():
            self.close()  # nobody asked for another one

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_BYTES:
            self._fail(HttpError(f"a response of more than {MAX_BYTES:,} bytes"))
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < HTTPStatus.OK:
            return  # an interim one: the answer follows
        if self._response and not self._response.done():
            self.used_at = self._loop.time()
            # Answered before all of it was sent: the rest would come before the next request.
            is_sent = not self._transport.get_write_buffer_size()
            self.idle = is_sent and self._parser.should_keep_alive()
            self._response.set_result(Response(self._parser.get_status_code(), b"".join(self._body)))
