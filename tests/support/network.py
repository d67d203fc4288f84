"""The network between two programs: a TCP proxy that can be cut, or stand still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

LOST_S = 0.1


class Network:
    """A proxy: a connection to its URL reaches the address behind it, unless the network is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.lose = b""
        """The first data to the server that contains these bytes is lost, and every connection ends."""
        self.answer_s = 0.0
        """Seconds by which all that the server sends is delayed."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.last_words: list[bytes] = []
        """A new connection ends with the first of these, after the client has sent its opening lines."""
        self._is_cut = False
        self._is_cut_there = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """Lose what is sent to the server; a moment later end every connection, and accept no new one."""
        self._is_cut = True
        await asyncio.sleep(LOST_S)
        self._end()
        try:
            yield
        finally:
            self._is_cut = False

    @asynccontextmanager
    async def stalled(self) -> AsyncIterator[None]:
        """Let nothing pass meanwhile; lose nothing."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    @asynccontextmanager
    async def one_way(self) -> AsyncIterator[None]:
        """Lose what is sent to the server; what the server sends arrives. The connections end afterwards."""
        self._is_cut_there = True
        try:
            yield
        finally:
            self._is_cut_there = False
            self.reset()

    def reset(self) -> None:
        """End every connection; accept new ones."""
        self._end()

    async def stop(self) -> None:
        self._server.close()
        self._flowing.set()
        self._end()
        await self._server.wait_closed()

    def _end(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:  # the server is away
            writer.transport.abort()
            return
        if self.last_words:
            writer.write(await there.readline())
            await reader.readuntil(b"PING\r\n")  # a reset connection could lose the last words
            writer.write(self.last_words.pop(0))
            writer.close()
            back.close()
            return
        both = {writer, back}
        self._writers |= both
        try:
            await asyncio.gather(self._carry(reader, back, is_lossy=True), self._carry(there, writer, is_lossy=False))
        finally:
            self._writers -= both

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_lossy: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if is_lossy and (self._is_cut or self._is_cut_there):
                    continue
                if is_lossy and self.lose and self.lose in data:
                    self.lose = b""
                    self._end()
                    continue
                if not is_lossy:
                    await asyncio.sleep(self.answer_s)
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def network(nats_url: str) -> AsyncIterator[tuple[Network, str]]:
    """Put a network in front of a NATS server; yield it and its URL."""
    address = urlsplit(nats_url)
    assert address.hostname
    assert address.port
    there = Network(address.hostname, address.port)
    url = await there.start()
    try:
        yield there, url
    finally:
        await there.stop()
