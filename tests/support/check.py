"""`python -m service --check`, as a deployer runs it."""

from __future__ import annotations

import asyncio
import sys

from local.process import ROOT
from tests.support.world import World


async def check(world: World, *, role: str = "customer", **env: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines of output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", role, "--check", cwd=ROOT, env=world.service_env(**env),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode().splitlines()
