"""The engine's container with a real Docker engine: it ends whenever the program that runs it ends."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.process import running
from local.servers import engine
from tests.support.docker import NEEDS_DOCKER, PYTHON_TAG, docker
from tests.support.world import eventually

pytestmark = NEEDS_DOCKER
STAND_IN = f"""\
FROM python:{PYTHON_TAG}
RUN printf '%s\\n' '#!/bin/sh' 'trap "exit 143" TERM' 'touch /data/file' 'sleep infinity & wait' > /bin/java \\
 && chmod 755 /bin/java
ENTRYPOINT ["java"]
"""
"""In place of Amazon's image, which not every machine can fetch. Like Java, its program ends on SIGTERM."""
PARENT = """\
import asyncio, pathlib, sys
from local import process
from local.servers import engine

async def main(image, store):
    engine.IMAGE, process._libc = image, None
    async with process.running("dynamodb", engine._amazons(store, process.claim_port(0, "")), store / "log"):
        await asyncio.sleep(600)

asyncio.run(main(sys.argv[1], pathlib.Path(sys.argv[2])))
"""
"""As on a Mac, whose kernel does not kill a process with its parent."""


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    tag = f"dynamodb-stand-in:{uuid.uuid4().hex[:12]}"
    built = docker("build", "-t", tag, "-", input=STAND_IN)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    monkeypatch.setattr(engine, "IMAGE", tag)
    yield tag
    if left := containers(tag):
        docker("rm", "--force", *left)
    docker("image", "rm", "--force", tag)


def containers(tag: str) -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"ancestor={tag}").stdout.split()


async def gone(tag: str) -> bool:
    return not await asyncio.to_thread(containers, tag)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_it_ends_with_docker_run(image: str, tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "store"
    async with running("dynamodb", engine._amazons(store, 0), tmp_path / "log") as child:
        await eventually((store / "file").exists, within_s=60, what="the engine's file")
        child.signal(number)
        await eventually(lambda: gone(image), within_s=30, what="the container's end")
    shutil.rmtree(store)  # the container's root made the file: its folder's owner can remove it


async def test_it_ends_with_the_program_that_started_docker_run(image: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, image, str(store))
    await eventually((store / "file").exists, within_s=60, what="the engine's file")
    parent.kill()
    await parent.wait()
    await eventually(lambda: gone(image), within_s=30, what="the container's end")
