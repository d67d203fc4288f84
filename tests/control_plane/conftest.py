"""The program in this process, against the fake of Synadia's control plane."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from tenacity import wait_none
from typer.testing import CliRunner

from control_plane.__main__ import cli
from control_plane.files import Files
from control_plane.synadia import api as synadia_api
from tests.support.synadia.fake import TOKEN, FakeSynadia, fake_synadia


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


@pytest.fixture
async def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: str
) -> AsyncIterator[Program]:  # fmt: skip
    monkeypatch.setattr(synadia_api, "_backoff", wait_none())
    aws = {"AWS_ENDPOINT_URL": moto, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-west-1"}
    async with fake_synadia() as fake:
        env = {"SYNADIA_API": fake.url, "SYNADIA_TOKEN": TOKEN, **aws}
        yield Program(fake, tmp_path / "config", env)
