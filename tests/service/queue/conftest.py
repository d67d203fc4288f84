"""One sidecar for all tests that leave it as it was: starting one costs more than most of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from service.contracts.stream import STREAM
from tests.support.queue.sidecar import sidecar
from tests.support.world import Servers, World, make_world

Shared = tuple[World, grpc.aio.Channel]


@pytest.fixture(scope="session")
async def shared_sidecar(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    async with make_world(servers, tmp_path_factory.mktemp("queue")) as world, sidecar(world) as (_, channel):
        yield world, channel


@pytest.fixture
async def shared(shared_sidecar: Shared) -> Shared:
    """Its stream is empty."""
    world, _ = shared_sidecar
    async with world.administrator() as admin:
        await admin.purge_stream(STREAM)
    return shared_sidecar
