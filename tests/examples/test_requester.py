"""The requesters of examples/, on a real task: a balance, an error, and no task at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.gateway.server import gateway
from tests.support.world import Servers, World, make_world

FOLDER = Path(__file__).parents[2] / "examples" / "requester"
TOKEN = "token-of-a-test"
COMMANDS = {
    "python": (sys.executable, str(FOLDER / "request.py")),
    "nats CLI": ("bash", str(FOLDER / "request.sh")),
    "curl": ("bash", str(FOLDER / "request-http.sh")),
}
NEEDS = {"nats CLI": "nats", "curl": "curl"}


@dataclass(frozen=True)
class Asked:
    world: World
    env: dict[str, str]

    async def by(self, language: str, client_id: str) -> tuple[int, str, str]:
        """Return exit code, output and errors of a requester."""
        if (program := NEEDS.get(language)) and not shutil.which(program):
            pytest.skip(f"{program} is not installed")
        process = await asyncio.create_subprocess_exec(
            *COMMANDS[language], client_id, env={**os.environ, **self.env},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()


@pytest.fixture(scope="module")
async def asked(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asked]:
    folder = tmp_path_factory.mktemp("requester")
    async with make_world(servers, folder) as world:
        creds, token = folder / "client.creds", folder / "gateway.token"
        creds.write_text(world.creds("client"))
        token.write_text(TOKEN)
        async with gateway(0, world.nats_url, {TOKEN: world.creds("gateway")}) as port:
            env = {"NATS_URL": world.nats_url, "NATS_CREDS": str(creds)}
            yield Asked(world, {**env, "GATEWAY": f"http://127.0.0.1:{port}", "TOKEN_FILE": str(token)})


@pytest.mark.parametrize("language", COMMANDS)
async def test_a_missing_task_is_reported_and_is_not_asked_for_ever(asked: Asked, language: str) -> None:
    code, output, errors = await asked.by(language, "678")
    assert (code, output) == (1, "")
    assert "no answer in 6 tries" in errors


@pytest.fixture(scope="module")
async def task(asked: Asked) -> AsyncIterator[None]:
    async with asked.world.task(SEED_ROWS="0"):
        asked.world.put_rows({"678": 7120})
        yield


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("language", COMMANDS)
async def test_it_prints_a_balance(asked: Asked, language: str) -> None:
    assert await asked.by(language, "678") == (0, '{"balance":7120}\n', "")


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("language", COMMANDS)
async def test_it_tells_an_error_from_a_balance(asked: Asked, language: str) -> None:
    code, output, errors = await asked.by(language, "nobody")
    assert (code, output) == (1, "")
    assert "no such client" in errors
