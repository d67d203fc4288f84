"""Servers of a test's own, which it may stop, kill and start again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import nats.errors
from nats.js.errors import APIError

from control_plane.auth.claims import Key
from control_plane.desired import EVERYTHING
from control_plane.errors import ProvisioningError
from local.process import Child, claim_port
from local.servers.nats_server import Mqtt, Node, nats_server
from tests.support.nats.declared import ensure
from tests.support.world import Servers, World, eventually

NODES: Final = 3


class OwnServer:
    """A nats-server that a test may stop and start again, on its port, with its state."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self.mqtt_port = claim_port(0, ""), claim_port(0, "")
        self._running = AsyncExitStack()
        self.child: Child
        self.operator, self.system = Key.operator(), Key.account()
        self.url = f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        server = nats_server(
            self._folder, self._port, operator=self.operator, system=self.system, mqtt=Mqtt(self.mqtt_port)
        )
        self.child = await self._running.enter_async_context(server)

    async def kill(self) -> None:
        self.child.signal(signal.SIGKILL)
        await self.stop()

    async def stop(self) -> None:
        await self._running.aclose()


@asynccontextmanager
async def own_server(world: World, folder: Path) -> AsyncIterator[tuple[World, OwnServer]]:
    """Start a separate nats-server; yield the world's table with an account on it."""
    server = OwnServer(folder)
    await server.start()
    try:
        servers = Servers(server.url, server.operator, server.system, world.servers.dynamodb_env, [server.mqtt_port])
        yield await provisioned(world, servers, 1), server
    finally:
        await server.stop()


class OwnCluster:
    """Three nats-servers, each of which a test may stop, kill and start again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = [claim_port(0, "") for _ in range(NODES)]
        self._route_ports = [claim_port(0, "") for _ in range(NODES)]
        self.mqtt_ports = [claim_port(0, "") for _ in range(NODES)]
        self._running: dict[int, tuple[Child, AsyncExitStack]] = {}
        self.operator, self.system = Key.operator(), Key.account()
        self.url = ",".join(f"nats://127.0.0.1:{port}" for port in self._ports)

    async def start(self, number: int) -> None:
        stack = AsyncExitStack()
        node = Node(number, self._route_ports)
        server = nats_server(
            self._folder / node.name, self._ports[number], operator=self.operator, system=self.system, node=node,
            mqtt=Mqtt(self.mqtt_ports[number]),
        )  # fmt: skip
        self._running[number] = await stack.enter_async_context(server), stack

    async def kill(self, number: int) -> None:
        child, stack = self._running.pop(number)
        child.signal(signal.SIGKILL)
        await stack.aclose()

    def ask_to_leave(self, number: int) -> None:
        """Lame-duck mode: the server closes its clients' connections, one after another, and then ends."""
        self._running[number][0].signal(signal.SIGUSR2)

    async def stop(self) -> None:
        await asyncio.gather(*(stack.aclose() for _, stack in self._running.values()))


@asynccontextmanager
async def own_cluster(world: World, folder: Path) -> AsyncIterator[tuple[World, OwnCluster]]:
    """Start a separate cluster; yield the world's table with an account, stream and bucket on every node."""
    cluster = OwnCluster(folder)
    try:
        await asyncio.gather(*(cluster.start(number) for number in range(NODES)))
        servers = Servers(cluster.url, cluster.operator, cluster.system, world.servers.dynamodb_env, cluster.mqtt_ports)
        yield await provisioned(world, servers, NODES), cluster
    finally:
        await cluster.stop()


async def provisioned(world: World, servers: Servers, replicas: int) -> World:
    """Return the world's table with a new account, its streams and buckets on these nats-servers."""
    own = World(servers, Key.account(), world.table, world.folder, seed_rows=world.seed_rows)
    await own.push()

    async def made() -> bool:
        try:
            async with own.administrator() as admin:
                async with asyncio.timeout(1):
                    await admin.account_info()  # during an election, nodes answer no request
                await ensure(admin, EVERYTHING, replicas=replicas)
        except (ProvisioningError, nats.errors.Error, APIError, TimeoutError):
            return False
        return True

    await eventually(made, within_s=30, what="nats-server with JetStream")
    return own
