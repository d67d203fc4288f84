"""Files of clients, the command as a person runs it, and what is in the table then."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from local.process import ROOT
from local.servers import dynamodb
from tests.support.world import World, one_authority

HEADER = "client_id,balance,name,created_at"


def csv_of(rows: Mapping[str, int] | Iterable[str], header: str = "client_id,balance") -> str:
    lines = [f"{client_id},{balance}" for client_id, balance in rows.items()] if isinstance(rows, Mapping) else [*rows]
    return "".join(f"{line}\n" for line in [header, *lines])


def numbered(count: int, first: int = 1) -> dict[str, int]:
    return {str(number): 100 + number for number in range(first, first + count)}


def environment(world: World, **env: str) -> dict[str, str]:
    """Return what the command needs: the table, the engine, and the service's way to NATS."""
    creds = base64.b64encode(world.creds("service").encode()).decode()
    return {
        "PATH": "", "DDB_TABLE": world.table, "NATS_URL": world.nats_url, "NATS_CREDENTIALS": creds,
        **world.servers.dynamodb_env, **one_authority(), **env,
    }  # fmt: skip


@asynccontextmanager
async def running(
    env: Mapping[str, str], *arguments: str, module: str = "operations.load"
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=ROOT, env=env, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def command(
    env: Mapping[str, str], *arguments: str, pipe: str = "", module: str = "operations.load"
) -> tuple[int, str, str]:
    """Return exit code, output and errors."""
    async with running(env, *arguments, module=module) as process, asyncio.timeout(90):
        output, errors = await process.communicate(pipe.encode())
        return process.returncode or 0, output.decode(), errors.decode()


async def load(world: World, *arguments: str, pipe: str = "", **env: str) -> tuple[int, str, str]:
    return await command(environment(world, **env), *arguments, pipe=pipe)


async def told(world: World, *arguments: str, pipe: str = "", **env: str) -> tuple[int, list[Any]]:
    """Return exit code and JSON of a load, one object for each line; the time it took is left out."""
    code, output, errors = await load(world, *arguments, "--json", pipe=pipe, **env)
    assert "Traceback" not in errors
    lines = [json.loads(line) for line in output.splitlines()]
    return code, [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def items(world: World) -> list[dict[str, Any]]:
    """Return every row, as it is in the table."""
    pages = dynamodb.client(world.servers.dynamodb_env).get_paginator("scan").paginate(TableName=world.table)
    return [dict(item) for page in pages for item in page["Items"]]


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)
