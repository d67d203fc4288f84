"""The example of a container that handles messages, copied as its page says, with another `handle`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from local.process import claim_port
from tests.support.queue.clients import left
from tests.support.queue.copied import copied
from tests.support.queue.sidecar import sidecar, store
from tests.support.world import World, eventually

HANDLE = """
    if message.messageBody == "bad":
        raise ValueError("no such order")
    say("Handling message", id=message.id, body=message.messageBody)
    time.sleep(1)
"""


@pytest.fixture
async def copy(tmp_path: Path) -> Path:
    """Copy the program. Its `handle` takes a second, and refuses `bad`."""
    program = await copied(tmp_path / "handler")
    text = program.read_text()
    text = re.sub(r'    say\("Handling message".*\n', HANDLE, text).replace(
        "import threading", "import threading\nimport time"
    )
    program.write_text(re.sub(r"(?m)^VISIBILITY_S: Final = \d+", "VISIBILITY_S: Final = 3", text))
    return program


@asynccontextmanager
async def running(program: Path, listen: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[dict[str, Any]]]]:
    """Run a program outside the repository; yield it and the lines that it has printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), cwd=program.parent, env={**os.environ, "SIDECAR": listen},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    lines: list[dict[str, Any]] = []

    async def read() -> None:
        assert process.stdout
        async for line in process.stdout:
            lines.append(json.loads(line))  # noqa: PERF401  the test reads them meanwhile

    reading = asyncio.create_task(read())
    try:
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


def bodies(lines: list[dict[str, Any]]) -> Counter[str]:
    return Counter(line["body"] for line in lines if line["message"] == "Handling message")


async def test_a_bad_message_stops_nothing_and_slow_work_is_done_once(world: World, copy: Path) -> None:
    """Six messages of a second each are longer than the visibility of three: it is extended meanwhile."""
    listen = f"127.0.0.1:{claim_port(0, '')}"
    await store(world, b"bad", *(b"order %d" % number for number in range(6)))
    async with sidecar(world, QUEUE_LISTEN=listen), running(copy, listen) as (process, lines):

        async def only_the_bad_one_is_left() -> bool:
            return len(bodies(lines)) == 6 and await left(world) == 1

        def refused() -> list[dict[str, Any]]:
            return [line for line in lines if line["message"] == "Not handled"]

        await eventually(only_the_bad_one_is_left, within_s=40)
        await eventually(lambda: len(refused()) >= 2, within_s=40, what="the bad message comes again")
        assert process.returncode is None
        assert bodies(lines) == Counter({f"order {number}": 1 for number in range(6)})
        assert refused()[0]["error"] == "ValueError('no such order')"
        assert [line["times_received"] for line in refused()[:2]] == [1, 2]


async def test_sigterm_finishes_the_message_at_hand_and_gives_the_others_back(world: World, copy: Path) -> None:
    listen = f"127.0.0.1:{claim_port(0, '')}"
    await store(world, *(b"order %d" % number for number in range(8)))
    async with sidecar(world, QUEUE_LISTEN=listen) as (_, channel):
        async with running(copy, listen) as (process, lines):
            await eventually(lambda: bool(bodies(lines)), within_s=30)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(20):
                assert await process.wait() == 0
        done = bodies(lines)
        assert len([line for line in lines if "deleted successfully" in line["message"]]) == len(done)
        async with running(copy, listen) as (_, lines):  # the others are there at once, each for the second time
            await eventually(lambda: len(done | bodies(lines)) == 8, within_s=30)
            assert not done & bodies(lines)
        del channel
