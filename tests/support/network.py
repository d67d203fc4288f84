"""The network between two programs: a TCP proxy that can be cut, or stand still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

LOST_S = 0.1


class Network:
    """What connects to `url` reaches the address behind it, while there is a network."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.lose = b""
        """The first bytes for the server with these in them are lost, and every connection with them."""
        self.answer_s = 0.0
        """So long after it was sent, each part of what the server sends arrives."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.last_words: list[bytes] = []
        """A new connection ends with the first of these, once the client has said its own."""
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """What is sent to the server is lost; a moment later every connection ends, and no new one is made."""
        self._is_cut = True
        await asyncio.sleep(LOST_S)
        self._end()
        try:
            yield
        finally:
            self._is_cut = False

    @asynccontextmanager
    async def stalled(self) -> AsyncIterator[None]:
        """Nothing passes, and nothing is lost."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

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
        there, back = await asyncio.open_connection(self._host, self._port)
        if self.last_words:
            writer.write(await there.readline())
            await reader.readuntil(b"PING\r\n")  # or it might lose the words with a connection that was reset
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
                if is_lossy and self._is_cut:
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
    """A network in front of a NATS server, and the URL on its other side."""
    address = urlsplit(nats_url)
    assert address.hostname
    assert address.port
    there = Network(address.hostname, address.port)
    url = await there.start()
    try:
        yield there, url
    finally:
        await there.stop()
