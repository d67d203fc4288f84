"""A command line, as a person runs it."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from local.process import ROOT


class Run:
    """A running command, its output so far, and its exit."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""

    async def read(self) -> None:
        assert self.process.stdout
        decoder = codecs.getincrementaldecoder("utf-8")()
        while chunk := await self.process.stdout.read(4096):
            self.output += decoder.decode(chunk)


@asynccontextmanager
async def command(module: str, *arguments: str, **env: str) -> AsyncIterator[Run]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=ROOT, env={**os.environ, **env}, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    run = Run(process)
    reading = asyncio.create_task(run.read())
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
        await reading


async def finished(module: str, *arguments: str, **env: str) -> tuple[int, str]:
    async with command(module, *arguments, **env) as run, asyncio.timeout(90):
        code = await run.process.wait()
        await asyncio.sleep(0)
    return code, run.output


_ONE_AFTER_ANOTHER = """
import importlib, json, sys
from typer.testing import CliRunner
cli = importlib.import_module(sys.argv[1] + ".__main__").cli
for arguments in json.loads(sys.argv[2]):
    result = CliRunner().invoke(cli, arguments)
    print(json.dumps([result.exit_code, result.output]))
"""


async def one_after_another(module: str, command_lines: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Return exit code and output of each command. They share a process: starting one takes longest."""
    command = [sys.executable, "-c", _ONE_AFTER_ANOTHER, module, json.dumps(command_lines)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env={**os.environ, "COLUMNS": "300"}, capture_output=True, text=True,
        timeout=90, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [(code, output) for code, output in lines]
