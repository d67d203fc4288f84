"""A partition is one: no server finds another way, and all reach each other again when it ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import APIError

from service.contracts.stream import STREAM
from service.nats.jetstream import explain
from service.runtime.errors import NoAnswer, ServiceError
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


async def test_a_cluster_without_a_leader_is_no_account_without_jetstream(world: World, tmp_path: Path) -> None:
    """A task that starts meanwhile must look again (`Connection.steady`)."""
    async with own_nodes(world, tmp_path / "nodes", 3) as (own, nodes):
        await asyncio.gather(nodes.stop(1), nodes.stop(2))
        said = list[ServiceError]()

        async def is_refused() -> bool:
            try:
                await left.account_info()
            except APIError as error:
                said.append(explain(STREAM, error))
            except nats.errors.TimeoutError:
                return False
            return bool(said)

        async with own.at(nodes.urls[0]).administrator() as left:
            await eventually(is_refused, within_s=60, what="a server that knows of no leader")
    assert isinstance(said[0], NoAnswer)
    assert "the cluster has no leader" in said[0].problem
