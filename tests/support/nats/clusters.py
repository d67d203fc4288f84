"""Two clusters with a gateway between them, the first of two nodes: where a requester may be, as seen from a task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import nats.errors
from nats.js.errors import APIError

from control_plane.auth.claims import Key
from control_plane.desired import EVERYTHING
from control_plane.errors import ProvisioningError
from local.process import claim_port
from local.servers.nats_server import Node, nats_server
from service.nats.connection import roundtrip
from tests.support.nats.declared import ensure
from tests.support.world import Servers, World, eventually

PLACES: Final = ("own node", "route", "gateway")


@asynccontextmanager
async def places(world: World, folder: Path) -> AsyncIterator[dict[str, World]]:
    """Yield the world as seen from each of `PLACES`; the tasks belong to the first."""
    routes = {"here": [claim_port(0, "") for _ in range(2)], "there": [claim_port(0, "")]}
    ports, gateway_ports = ([claim_port(0, "") for _ in PLACES] for _ in range(2))
    gateways = {"here": gateway_ports[0], "there": gateway_ports[2]}
    nodes = [
        Node(number, routes[cluster], cluster, port, gateways)
        for number, cluster, port in zip((0, 1, 0), ("here", "here", "there"), gateway_ports, strict=True)
    ]
    operator, system = Key.operator(), Key.account()
    async with AsyncExitStack() as stack:
        for node, port in zip(nodes, ports, strict=True):
            await stack.enter_async_context(
                nats_server(folder / node.name, port, operator=operator, system=system, node=node)
            )
        servers = Servers(f"nats://127.0.0.1:{ports[0]}", operator, system, world.servers.dynamodb_env)
        own = World(servers, Key.account(), world.table, world.folder, seed_rows=world.seed_rows)
        await own.push()

        async def provisioned() -> bool:
            try:
                async with own.administrator() as admin:
                    await ensure(admin, EVERYTHING, replicas=1)
            except (ProvisioningError, nats.errors.Error, APIError, TimeoutError):
                return False
            return True

        await eventually(provisioned, within_s=60, what="JetStream in two clusters")
        found = {place: own.at(f"nats://127.0.0.1:{port}") for place, port in zip(PLACES, ports, strict=True)}
        for place, at in found.items():
            await eventually(partial(_answers, at), within_s=30, what=f"the account at {place}")
        yield found


async def _answers(world: World) -> bool:
    try:
        async with world.client() as client:
            await roundtrip(client)
    except nats.errors.Error:
        return False
    return True
