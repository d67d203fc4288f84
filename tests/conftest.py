"""Real servers for the session, an account and a table for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests.support.faulty import FaultyDynamoDB, faulty_dynamodb
from tests.support.world import Servers, World, make_world, start_servers


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    async with start_servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
async def world(servers: Servers, tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(servers, tmp_path) as world:
        yield world


@pytest.fixture
async def proxy(servers: Servers) -> AsyncIterator[FaultyDynamoDB]:
    async with faulty_dynamodb(servers.dynamodb_env) as proxy:
        yield proxy


@pytest.fixture
def aws(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the AWS configuration of the test's process be the engine's."""
    for name, value in servers.dynamodb_env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of moto's server, which stands in for AWS."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
