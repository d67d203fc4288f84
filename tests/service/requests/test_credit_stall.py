"""A server that takes a new connection and then says nothing: what was granted on it is not counted on the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import pytest

from service.nats.client import NatsClient
from service.requests.credit import Credit
from tests.service.requests.test_credit import Held, ask, grants_at_the_server
from tests.support.world import World, eventually


@dataclass
class Wall:
    """Stands before nats-server. While it is mute, a connection is opened, and what follows on it goes nowhere."""

    upstream: str
    mute: bool = False
    muted: int = 0
    """Connections that went mute."""
    url: str = ""
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.upstream)
        from_server, to_server = await asyncio.open_connection(parts.hostname, parts.port)
        self.open.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(from_server, writer))
                await self._ask(reader, to_server)
                writer.close()
        finally:
            self.open.discard(writer)
            writer.close()
            to_server.close()

    async def _ask(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        silent = False
        while data := await reader.read(1 << 16):
            if not silent:
                to_server.write(data)
            if self.mute and b"PING\r\n" in data and not silent:
                silent = True
                self.muted += 1
        to_server.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)


@asynccontextmanager
async def wall(world: World) -> AsyncIterator[Wall]:
    found = Wall(world.nats_url)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        for writer in tuple(found.open):
            writer.close()
        await server.wait_closed()


async def test_a_connection_that_goes_mute_leaves_no_grant_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py calls itself connected, waits for a PONG, and then tries once more."""
    held = Held()
    async with wall(world) as between, world.client() as client, through(between, world) as nc:
        credit = held.credit = Credit(nc, 4)
        credit.add("customer.balance", "q", held.take)
        credit.open()
        await eventually(lambda: grants(world, 4 + 1), what="four grants, and an overdraft")
        asking = [asyncio.create_task(ask(client)) for _ in range(4)]
        await eventually(lambda: len(held.messages) == 4)

        monkeypatch.setattr(nc, "flush", lambda: NatsClient.flush(nc, 1))
        between.mute = True
        await nc.force_reconnect()
        await eventually(lambda: between.muted == 1 and nc.is_connected, what="a mute connection")
        for _ in range(4):
            held.messages.pop()
            credit.leave(1)
        between.mute = False
        # The mute one is no reconnection: it confirmed nothing.
        await eventually(lambda: nc.stats["reconnects"] == 1 and nc.is_connected, what="another connection")
        await eventually(lambda: grants(world, 4 + 1), what="four grants, and an overdraft")
        await eventually(lambda: len(between.open) == 1, what="the end of the mute connection")
        asking.append(asyncio.create_task(ask(client)))
        await eventually(lambda: len(held.messages) == 1)
        held.answer(1)
        assert await asking.pop() == "ok"
        for task in asking:
            task.cancel()


@asynccontextmanager
async def through(between: Wall, world: World) -> AsyncIterator[NatsClient]:
    beyond = replace(world, servers=replace(world.servers, nats_url=between.url))
    async with beyond.client("administrator") as nc:
        assert isinstance(nc, NatsClient)
        yield nc


async def grants(world: World, number: int) -> bool:
    return await grants_at_the_server(world) == number
