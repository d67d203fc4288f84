"""A partition is one: no server finds another way, and all reach each other again when it ends."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.nemesis.nodes import own_nodes
from tests.support.world import World, eventually

pytestmark = [pytest.mark.xdist_group("drills"), pytest.mark.timeout(120)]


async def answer(message: Msg) -> None:
    await message.respond(b"")


async def is_heard(asking: Client) -> bool:
    try:
        await asking.request("ask", timeout=1)
    except nats.errors.Error:
        return False
    return True


async def test_a_node_is_cut_off_and_joins_again(world: World, tmp_path: Path) -> None:
    async with own_nodes(world, tmp_path / "nodes", 3) as (own, nodes), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(own.at(url).client("administrator")) for url in nodes.urls]
        cut_off, other, answering = clients
        await answering.subscribe("ask", cb=answer)
        for asking in (cut_off, other):
            await eventually(lambda: is_heard(asking), what="an answer over a route")  # noqa: B023
        async with nodes.apart([0]):
            assert not await is_heard(cut_off)
            assert not await nodes.are_joined()
            assert await is_heard(other)
        await eventually(nodes.are_joined, within_s=30, what="servers that reach each other")
        async with nodes.apart(range(3)):
            assert not await is_heard(other)
