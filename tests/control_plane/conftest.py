"""The program in this process, against the fake of Synadia's control plane."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from tenacity import wait_none
from typer.testing import CliRunner

from benchmark.load.mqtt import Mqtt
from control_plane.__main__ import cli
from control_plane.files import Files, write_private
from control_plane.reconcile import reconcile
from control_plane.self_hosted import changes
from control_plane.self_hosted import provider as self_hosted
from control_plane.self_hosted.provider import SelfHosted
from control_plane.synadia import api as synadia_api
from tests.support.synadia.fake import TOKEN, FakeSynadia, fake_synadia
from tests.support.world import Servers


@dataclass
class Program:
    """`python -m control_plane`, for account POC-TT."""

    fake: FakeSynadia
    config: Path
    env: dict[str, str]

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors; an exception is the test's failure."""
        shared = ["--config", str(self.config), "--initials", "TT"]
        runner = CliRunner(env=dict(self.env))
        result = await asyncio.to_thread(runner.invoke, cli, [*shared, *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        for secret in (TOKEN, *(user.key.seed for user in self.fake.users.values())):
            assert secret not in result.output
        return result.exit_code, result.stdout, result.stderr

    @property
    def files(self) -> Files:
        return Files(self.config / "POC-TT", self.config)


@pytest.fixture(scope="session", autouse=True)
def no_trio() -> Iterator[None]:
    """Tell httpcore at once what it would look for in every folder of the path at every request."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("sniffio") is None:
            patch.setitem(sys.modules, "sniffio", None)
        yield


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Nobody else changes a test's account: no command need listen for others after each of its changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "SETTLE_S", 0.0)
        yield


@pytest.fixture
async def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: str
) -> AsyncIterator[Program]:  # fmt: skip
    monkeypatch.setattr(synadia_api, "_backoff", wait_none())
    aws = {"AWS_ENDPOINT_URL": moto, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"}
    async with fake_synadia() as fake:
        env = {"SYNADIA_API": fake.url, "SYNADIA_TOKEN": TOKEN, **aws}
        yield Program(fake, tmp_path / "config", env)


@dataclass
class OwnProgram:
    """`python -m control_plane` for account POC-TD, on the real nats-server."""

    servers: Servers
    folder: Path

    async def __call__(self, *arguments: str, config: str = "config") -> tuple[int, str, str]:
        """Return exit code, output and errors; an exception is the test's failure."""
        operator, system = self.folder / "operator.seed", self.folder / "system.creds"
        write_private(operator, self.servers.operator.seed)
        write_private(system, self.servers.system_creds)
        where = ("--server", self.servers.nats_url, "--operator", str(operator), "--system-creds", str(system))
        shared = ["--config", str(self.folder / config), "--initials", "TD", *where]
        result = await asyncio.to_thread(CliRunner().invoke, cli, [*shared, *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert self.servers.operator.seed not in result.output
        return result.exit_code, result.stdout, result.stderr

    async def done(self, *arguments: str, config: str = "config") -> str:
        """Return the output of a command that succeeds."""
        code, output, errors = await self(*arguments, config=config)
        assert code == 0, (output, errors)
        return output

    async def add(self, name: str) -> str:
        """Add a device; return its JWT."""
        (added,) = json.loads(await self.done("device", "add", name, "--json"))
        return str(added["jwt"])

    async def connect(self, name: str, jwt: str, *, client_id: str = "", **options: Any) -> Mqtt:
        port = self.servers.mqtt_ports[0]
        return await Mqtt.connect("127.0.0.1", port, client_id or name, user=name, password=jwt, **options)

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[tuple[SelfHosted, str]]:
        """Return the provider and the account's id."""
        async with self_hosted.connected(self.servers.nats_url, self.servers.system_creds) as system:
            provider = SelfHosted(self.servers.nats_url, system, self.servers.operator, self.servers.system.public)
            account = await reconcile.find(provider, "POC-TD")
            assert account
            yield provider, account.id

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[Client]:
        async with self.provider() as (provider, account), provider.administrator(account) as client:
            yield client


@pytest.fixture
async def own(servers: Servers, tmp_path: Path) -> AsyncIterator[OwnProgram]:
    """An account that takes devices."""
    program = OwnProgram(servers, tmp_path)
    await program.done("create", "--with", "devices")
    yield program
    await program.done("delete", "--yes")
