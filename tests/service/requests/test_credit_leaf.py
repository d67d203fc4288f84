"""Credit across a leaf node: what it gives and takes, the server on the other side knows too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from local.process import accepts, claim_port, running
from local.servers.nats_server import binary
from service.nats.client import NatsClient
from service.requests.credit import Credit
from tests.service.requests.test_credit import Held, ask
from tests.support.world import eventually

ROOM = 8


@asynccontextmanager
async def server(folder: Path, name: str, port: int, leafnodes: str) -> AsyncIterator[str]:
    config = folder / f"{name}.conf"
    config.write_text(f'server_name: {name}\nlisten: "127.0.0.1:{port}"\nleafnodes {{ {leafnodes} }}\n')
    async with running("nats-server", [binary(), "-c", str(config)], folder / f"{name}.log") as child:
        await child.until(lambda: accepts(port))
        yield f"nats://127.0.0.1:{port}"


@asynccontextmanager
async def connected(client: Client, url: str) -> AsyncIterator[None]:
    await client.connect(url)
    try:
        yield
    finally:
        await client.close()


@pytest.mark.parametrize("task_on_the_leaf", [False, True])
async def test_credit_crosses_a_leaf_node(tmp_path: Path, *, task_on_the_leaf: bool) -> None:
    hub_port, joint, leaf_port = (claim_port(0, "") for _ in range(3))
    async with (
        server(tmp_path, "hub", hub_port, f'listen: "127.0.0.1:{joint}"') as hub,
        server(tmp_path, "leaf", leaf_port, f'remotes: [{{ url: "nats://127.0.0.1:{joint}" }}]') as leaf,
    ):
        task, client, held = NatsClient(lambda _: None, lambda: None), Client(), Held()
        here, there = (leaf, hub) if task_on_the_leaf else (hub, leaf)
        async with connected(task, here), connected(client, there):
            credit = held.credit = Credit(task, ROOM)
            credit.add("customer.balance", "q", held.take)
            credit.open()
            for number in range(20):
                await settled(task, client, f"given.{number}")
                asking = [asyncio.create_task(ask(client)) for _ in range(ROOM)]
                await eventually(lambda: len(held.messages) == ROOM, what="all that there is room for")
                await settled(task, client, f"used.{number}")
                assert await ask(client) == "no responders"
                held.answer(ROOM)
                assert await asyncio.gather(*asking) == ["ok"] * ROOM
            assert credit.in_flight == 0
            await credit.close()
            await settled(task, client, "closed")
            assert await ask(client) == "no responders"


async def settled(task: Client, client: Client, subject: str) -> None:
    """Wait until the requester's server knows what the task's server knew a moment ago: one link, one order."""

    async def answer(msg: Msg) -> None:
        await msg.respond(b"ok")

    marker = await task.subscribe(subject, cb=answer)

    async def known() -> bool:
        return await ask(client, subject) == "ok"

    await eventually(known, what=f"{subject} on the other side")
    await marker.unsubscribe()
