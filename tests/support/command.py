"""A command line, as a person runs it."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from local.process import ROOT


class Run:
    """A command, what it has printed so far, and its end."""

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
