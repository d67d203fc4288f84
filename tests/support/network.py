"""The network between two programs: a TCP proxy that can be cut, or stand still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Network:
    """What connects to `url` reaches the address behind it, while there is a network."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """Every connection ends, and no new one is made."""
        self._is_cut = True
        for writer in list(self._writers):
            writer.transport.abort()
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
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(self._host, self._port)
        both = {writer, back}
        self._writers |= both
        try:
            await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
        finally:
            self._writers -= both

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._flowing.wait()
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
