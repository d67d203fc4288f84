"""The nats-servers of a run, one or three. Each route between two passes a proxy, so that a partition can be made."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations
from pathlib import Path
from urllib.parse import urlsplit

import nats.errors

from control_plane.auth.claims import Key
from control_plane.errors import ProvisioningError
from control_plane.self_hosted.provider import connected
from local.process import Child, claim_port
from local.servers.nats_server import Mqtt, Node, nats_server
from tests.support.network import Network, network
from tests.support.own_servers import provisioned
from tests.support.world import Servers, World

ANSWER_S = 2.0


class Nodes:
    """A nats-server alone, or a cluster. Clients reach each on its own port, without a proxy."""

    def __init__(self, folder: Path, count: int, dynamodb_env: Mapping[str, str]) -> None:
        self._folder = folder
        self._ports, mqtt_ports, self._route_ports = ([claim_port(0, "") for _ in range(count)] for _ in range(3))
        self._routes: dict[tuple[int, int], tuple[Network, int]] = {}
        """From and to -> the proxy, and its port."""
        self._running: dict[int, tuple[Child, AsyncExitStack]] = {}
        self.urls = [f"nats://127.0.0.1:{port}" for port in self._ports]
        self.servers = Servers(",".join(self.urls), Key.operator(), Key.account(), dynamodb_env, mqtt_ports)

    def __len__(self) -> int:
        return len(self._ports)

    async def connect(self, stack: AsyncExitStack) -> None:
        """Make the routes' proxies. Call it before the first start."""
        for start, end in permutations(range(len(self)), 2):
            there, url = await stack.enter_async_context(network(f"nats://127.0.0.1:{self._route_ports[end]}"))
            self._routes[start, end] = there, urlsplit(url).port or 0

    async def start(self, number: int) -> None:
        own, stack = self._route_ports[number], AsyncExitStack()
        ports = [self._routes[number, end][1] if end != number else own for end in range(len(self))]
        node = Node(number, ports, is_hidden=True) if len(self) > 1 else None
        server = nats_server(
            self._folder / f"node-{number}", self._ports[number], operator=self.servers.operator,
            system=self.servers.system, node=node, mqtt=Mqtt(self.servers.mqtt_ports[number]),
        )  # fmt: skip
        self._running[number] = await stack.enter_async_context(server), stack

    async def stop(self, number: int) -> None:
        _, stack = self._running.pop(number)
        await stack.aclose()

    async def stop_all(self) -> None:
        await asyncio.gather(*map(self.stop, list(self._running)))

    def signal(self, number: int, what: signal.Signals) -> None:
        self._running[number][0].signal(what)

    @asynccontextmanager
    async def apart(self, cut_off: Collection[int]) -> AsyncIterator[None]:
        """Cut each of these off from all other servers; clients still reach all."""
        async with AsyncExitStack() as stack:
            cuts = [each.cut() for pair, (each, _) in self._routes.items() if not set(cut_off).isdisjoint(pair)]
            await asyncio.gather(*map(stack.enter_async_context, cuts))
            yield

    async def are_joined(self) -> bool:
        """Return whether each server reaches all of them."""
        try:
            for url in self.urls:
                await self._ask_all(url)
        except (ProvisioningError, nats.errors.Error, TimeoutError):
            return False
        return True

    async def _ask_all(self, url: str) -> None:
        """Ask one server for all: https://docs.nats.io/running-a-nats-service/configuration/sys_accounts"""
        async with connected(url, self.servers.system_creds) as system:
            inbox = system.new_inbox()
            answers = await system.subscribe(inbox)
            await system.publish("$SYS.REQ.SERVER.PING", reply=inbox)
            for _ in self.urls:
                await answers.next_msg(timeout=ANSWER_S)


@asynccontextmanager
async def own_nodes(world: World, folder: Path, count: int) -> AsyncIterator[tuple[World, Nodes]]:
    """Start separate nats-servers; yield the world's table with an account on them."""
    async with AsyncExitStack() as stack:
        nodes = Nodes(folder, count, world.servers.dynamodb_env)
        await nodes.connect(stack)
        stack.push_async_callback(nodes.stop_all)
        await asyncio.gather(*map(nodes.start, range(count)))
        yield await provisioned(world, nodes.servers, count), nodes
