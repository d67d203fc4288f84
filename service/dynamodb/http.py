"""POST to one origin over kept-alive connections, parsed by httptools.

For small bodies and one host, a general HTTP client dominates the cost of a request: aiohttp cost as much as everything
else together (docs/adr/0008-dynamodb-client.md).
"""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus
from math import inf
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from service.dynamodb.connect import PROXY_REMEDY, Origin, Proxy, connect
from service.dynamodb.errors import HttpError

TICK_S: Final = 0.001
"""Seconds. The event loop's timers have a resolution of a millisecond: one may fire this much too early."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Largest response, in bytes: DynamoDB sends up to 16 MB of data, which JSON's escapes make several times as long."""
IDLE_S: Final = 20.0
"""Seconds. A connection idle for longer is not reused: the server may be closing it."""


CHECKSUM: Final = b"x-amz-crc32"
ERROR_TYPE: Final = b"x-amzn-errortype"
_READ: Final = frozenset({CHECKSUM, ERROR_TYPE})


class Response(NamedTuple):
    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]
    """Only `CHECKSUM` and `ERROR_TYPE`, each as often as it came."""


class Pool:
    """Connections to one origin. Each carries one call at a time; the most recently used is reused first (LIFO).

    Unbounded: the callers limit how many calls are in flight.
    """

    def __init__(
        self, url: str, timeout_s: float, tls: ssl.SSLContext | None = None, proxy: Proxy | None = None
    ) -> None:
        """`tls` verifies an https server, in place of the system's authorities. Raise `ValueError` for a bad URL."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url} is not an HTTP address")
        self.host = parts.netloc
        self._timeout_s = timeout_s
        self._free: list[_Connection] = []
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._origin = Origin(parts.hostname, parts.port or (443 if tls else 80), tls, proxy)
        self._name = f"{self.host} through proxy {proxy.host}:{proxy.port}" if proxy else self.host
        self.path = parts.path or "/"
        target, authorization = self.path, ""
        if proxy and not tls:  # https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
            target, authorization = f"http://{self.host}{self.path}", proxy.authorization
        self._head = f"POST {target} HTTP/1.1\r\nHost: {self.host}\r\n{authorization}".encode()

    async def post(self, headers: str, body: bytes, deadline: float = inf, *, again: bool = True) -> Response:
        """Send a POST and return the response, whatever its status, by `deadline`, a time of the loop's clock.

        `headers` are lines, each with its CRLF. A new connection and the answer may take `timeout_s` each: on a busy
        CPU a handshake is slow, and after a timeout the next call would start it from zero. A kept connection that ends
        before the first byte of an answer had most likely ended before the request. With `again` the request is then
        sent once more, on a new connection, although the first may have been executed. Raise `HttpError`, and
        `TimeoutError` after `timeout_s` or at the deadline.
        """
        request = b"%b%bContent-Length: %d\r\n\r\n%b" % (self._head, headers.encode(), len(body), body)
        connection = self._reusable()
        if connection is not None:
            try:
                return await self._call(connection, request, deadline)
            except HttpError:
                if connection.heard:
                    raise
                self._distrust(connection.used_at)
                if not again:
                    raise
        ends = self._ends(deadline)
        connection = await connect(self._origin, lambda: _Connection(self._loop, self._name), ends)
        return await self._call(connection, request, deadline)

    async def _call(self, connection: _Connection, request: bytes, deadline: float) -> Response:
        began, ends = self._loop.time(), self._ends(deadline)
        try:
            return await connection.call(request, ends)
        except TimeoutError:
            if ends < deadline:  # a caller's own short deadline says nothing about the other connections
                self._distrust(began)
            raise
        finally:
            if connection.idle and not self._is_closed:
                self._free.append(connection)
            else:
                connection.close()

    def drop_idle(self) -> None:
        """Close the connections that no call is using."""
        while self._free:
            self._free.pop().close()

    def close(self) -> None:
        """Close every connection; those in use, when their calls end."""
        self._is_closed = True
        self.drop_idle()

    def _distrust(self, until: float) -> None:
        """Close connections without an answer since `until`: a dead network path takes down all of them."""
        for connection in [free for free in self._free if free.used_at <= until]:
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


class _Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.idle = True
        """True if another call may be made on it."""
        self.heard = False
        """True if any byte of the last call's answer has come."""
        self._name = name
        self.used_at = loop.time()
        self._loop = loop
        self._transport: asyncio.Transport
        self._response: asyncio.Future[Response] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Fires at this call's deadline or earlier, then is set again: a new timer for each call costs CPU."""
        self._body: list[bytes] = []
        self._size = 0
        self._headers: list[tuple[bytes, bytes]] = []

    async def call(self, request: bytes, deadline: float) -> Response:
        self.idle = self.heard = False
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
                self._fail(TimeoutError(f"{self._name} did not answer in time"))

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
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport is not a subclass

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._response.done():
            self.close()  # data outside a call: a later answer could be mixed up
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(HttpError(f"the response of {self._name} is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(HttpError(f"the connection to {self._name} was lost: {exc or 'closed'}"))

    # httptools

    def on_message_begin(self) -> None:
        self._headers = []
        if self._response and self._response.done():
            self.close()  # a second response to one call

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _READ:
            self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_BYTES:
            self._fail(HttpError(f"a response of more than {MAX_BYTES:,} bytes"))
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < HTTPStatus.OK:
            return  # an interim response (1xx): the final one follows
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:  # only a proxy sends 407
            self._fail(HttpError(f"no way to {self._name} (HTTP 407)", PROXY_REMEDY))
        if self._response and not self._response.done():
            self.used_at = self._loop.time()
            # If answered before the whole request was sent, its rest would precede the next request.
            is_sent = not self._transport.get_write_buffer_size()
            self.idle = is_sent and self._parser.should_keep_alive()
            self._response.set_result(Response(status, b"".join(self._body), self._headers))
