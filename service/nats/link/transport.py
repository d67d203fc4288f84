"""nats-py's transports, raced for the first line; they accept a longer INFO, and a TLS name for a web socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Final
from urllib.parse import ParseResult

import nats.errors
from nats.aio.transport import TcpTransport, Transport, WebSocketTransport

INFO_MAX: Final = 1024 * 1024
"""Largest INFO line, in bytes: a cluster lists every address of every server."""
CLOSE_S: Final = 0.25


class Hearing(Transport):
    """A transport whose first line is read during the race: a host may accept and then say nothing.

    CONNECT and PING leave in one write, as nats.go sends them. nats-py 2.16 sends two packets: a server that refuses
    CONNECT closes, the late PING then resets the connection, and the server's reason is lost.
    """

    _first = b""
    _held = b""

    def write(self, payload: bytes) -> None:
        if payload.startswith(b"CONNECT "):
            self._held = payload
            return
        super().write(self._held + payload)  # type: ignore[safe-super]  # the transport beside it
        self._held = b""

    async def hear(self) -> None:
        """Wait for the first line. Raise `UnexpectedEOF` if the server closes before it."""
        self._first = await self.readline()
        if not self._first:
            raise nats.errors.UnexpectedEOF

    async def readline(self) -> bytes:
        first, self._first = self._first, b""
        return first or await super().readline()  # type: ignore[safe-super]  # the transport beside it


class Tcp(Hearing, TcpTransport):
    """nats-py's transport with a longer INFO. Closing one that the peer has reset is not an error."""

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        await super().connect(uri, max(buffer_size, INFO_MAX), connect_timeout)

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        self._io_reader._limit = max(buffer_size, INFO_MAX)  # type: ignore[union-attr]  # with TLS before INFO

    def write_now(self, frames: list[bytes]) -> bool:
        """Write, unless earlier data is still unsent: then write nothing and return False."""
        writer = self._io_writer
        if writer is None or writer.transport.is_closing() or writer.transport.get_write_buffer_size():
            return False
        self.writelines(frames)
        return True

    async def wait_closed(self) -> None:
        with contextlib.suppress(ConnectionError):
            await super().wait_closed()


class WebSocket(Hearing, WebSocketTransport):
    """nats-py's transport with the name that the certificate must have, without arguments that aiohttp deprecated."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self._name = name

    async def connect(self, uri: ParseResult, _buffer_size: int, connect_timeout: int) -> None:
        await self._connect(uri, connect_timeout)

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, _buffer_size: int, connect_timeout: int
    ) -> None:
        if not isinstance(uri, str):  # nats-py calls this again after INFO, with a name; TLS is up by then
            await self._connect(uri, connect_timeout, ssl=ssl_context, server_hostname=self._name or uri.hostname)

    async def _connect(self, uri: ParseResult, timeout_s: float, **tls: Any) -> None:
        async with asyncio.timeout(timeout_s):
            self._ws = await self._client.ws_connect(uri.geturl(), max_msg_size=0, **tls)
        self._using_tls = bool(tls)


async def close(transport: Transport) -> None:
    """Close within `CLOSE_S` seconds. Never raise."""
    transport.close()
    try:
        async with asyncio.timeout(CLOSE_S):
            await transport.wait_closed()
    except Exception:  # noqa: S110  it is gone either way
        pass
