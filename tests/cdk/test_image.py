"""The image with a real Docker engine, run as Fargate runs it: no root, read-only, no capabilities, little memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testcontainers.core.container import DockerContainer

from local.load import ask_all
from local.process import ROOT, claim_port
from tests.support.docker import NEEDS_DOCKER, PYTHON_TAG, docker
from tests.support.queue.copied import block, copied
from tests.support.queue.sidecar import sidecar, store
from tests.support.world import World, complaint, eventually, get, log_lines

os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
MEMORY = "256m"
USER = "10001:10001"


pytestmark = NEEDS_DOCKER


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    tag = f"customer-balance:{uuid.uuid4().hex[:12]}"
    built = docker(
        "build", "--network", "host", "--build-arg", f"PYTHON_TAG={PYTHON_TAG}", "--build-arg", "VERSION=9.9.9",
        "-t", tag, str(ROOT),
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    yield tag
    docker("image", "rm", "--force", tag)


@contextmanager
def running(image: str, env: dict[str, str]) -> Iterator[Any]:
    container = DockerContainer(image).with_kwargs(
        network_mode="host", read_only=True, user=USER, cap_drop=["ALL"], mem_limit=MEMORY,
        security_opt=["no-new-privileges"],
    )  # fmt: skip
    for name, value in env.items():
        container.with_env(name, value)
    container.start()
    try:
        yield container.get_wrapped_container()
    finally:
        container.stop()


def environment(world: World, port: int) -> dict[str, str]:
    env = world.service_env(HEALTH_PORT=str(port), SHUTDOWN_TIMEOUT="20")
    del env["PATH"]
    return env


async def ready(port: int) -> bool:
    try:
        return (await get(f"http://127.0.0.1:{port}/readyz"))[0] == 200
    except OSError:
        return False


async def test_it_serves_is_healthy_and_drains_under_load(world: World, image: str) -> None:
    port = claim_port(0, "")
    with running(image, environment(world, port)) as container:
        await eventually(lambda: ready(port), within_s=30, what="readiness")
        balances = world.rows()
        enough = asyncio.Event()
        async with world.task(SEED_ROWS="0"), world.client() as client:

            async def stop() -> None:
                await asyncio.sleep(0.5)
                await asyncio.to_thread(container.stop, timeout=30)
                await asyncio.sleep(0.2)
                enough.set()

            stopping = asyncio.create_task(stop())
            tally = await ask_all(
                [client], itertools.cycle(balances), concurrency=100, expected=balances, until=enough.is_set
            )
            await stopping
        assert container.wait()["StatusCode"] == 0, "docker stop is SIGTERM to PID 1, which drained"
        assert tally.balances == tally.sent > 500
        output = container.logs().decode()
        (drained,) = [line for line in log_lines(output) if line["event"] == "drained"]
        assert drained["requests"] == drained["events"] > 100
    assert await world.last_sequence() == tally.sent


async def test_docker_finds_it_healthy(world: World, image: str) -> None:
    port = claim_port(0, "")
    with running(image, environment(world, port)) as container:

        async def healthy() -> bool:
            await asyncio.to_thread(container.reload)
            return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

        await eventually(healthy, within_s=40, what="health")


def test_what_keeps_it_from_starting_is_one_line(image: str) -> None:
    ran = docker("run", "--rm", "--network", "host", "--read-only", image)
    assert ran.returncode == 1
    assert complaint(ran.stderr) == "error: DDB_TABLE is not set; set it, for example DDB_TABLE=balances"


def test_there_is_nothing_else_in_it(image: str) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return docker("run", "--rm", "--network", "host", "--entrypoint", command[0], image, *command[1:])

    for module in ("pip", "pytest", "moto", "aws_cdk", "control_plane", "local", "tests"):
        assert run("python", "-c", f"import {module}").returncode == 1, module
    assert run("python3", "-c", "import pip").returncode == 1
    assert run("sh", "-c", "command -v gcc cc pip pip3").stdout == ""
    found = run("sh", "-c", "find / -xdev \\( -name '*.creds' -o -name '*.token' -o -name '.env' \\) 2>/dev/null")
    assert found.stdout == ""
    assert run("id", "-u").stdout == "10001\n"
    uncompiled = (
        "import pathlib, service; here = pathlib.Path(service.__file__).parent;"
        "compiled = {path.stem.split('.')[0] for path in here.glob('__pycache__/*')};"
        "print(sorted({path.stem for path in here.glob('*.py')} - compiled))"
    )
    assert run("python", "-c", uncompiled).stdout == "[]\n"


async def handles_a_message(world: World, image: str) -> None:
    listen = f"127.0.0.1:{claim_port(0, '')}"
    await store(world, b"one")
    async with sidecar(world, QUEUE_LISTEN=listen):
        with running(image, {"SIDECAR": listen}) as container:

            async def handled() -> bool:
                output = await asyncio.to_thread(container.logs)
                return b'"body": "one"' in output and b"Message deleted successfully" in output

            await eventually(handled, within_s=30, what="a message handled")


async def test_the_example_handles_a_message_in_a_container_of_its_own(world: World) -> None:
    arguments = [f"PYTHON_TAG={PYTHON_TAG}", "DOCKER_ARGS=--network host"]
    env = {**os.environ, "DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0")}
    built = await asyncio.to_thread(
        subprocess.run, ["make", "handler", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    await handles_a_message(world, "handler")


async def test_a_copy_of_the_example_handles_a_message_in_the_image_of_its_page(world: World, tmp_path: Path) -> None:
    program = await copied(tmp_path / "handler")
    dockerfile = block("dockerfile").replace("3.11-slim-bookworm", PYTHON_TAG)
    (program.parent / "Dockerfile").write_text(dockerfile)
    tag = f"copied-handler:{uuid.uuid4().hex[:12]}"
    try:
        built = docker("build", "--network", "host", "-t", tag, str(program.parent))
        assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
        await handles_a_message(world, tag)
    finally:
        docker("image", "rm", "--force", tag)


def test_it_says_what_it_is(image: str) -> None:
    (found,) = json.loads(docker("image", "inspect", image).stdout)
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "customer-balance"
    assert labels["org.opencontainers.image.version"] == "9.9.9"
    assert found["Config"]["User"] == USER
    assert found["Config"]["Entrypoint"] == ["python", "-m", "service"]
    assert found["Config"]["Healthcheck"]["Test"] == ["CMD", "python", "-m", "service.healthcheck"]
    print(f"image size: {found['Size'] / 1e6:.0f} MB")


def test_the_devcontainer_has_what_contributing_asks_for() -> None:
    tag = f"customer-balance-dev:{uuid.uuid4().hex[:12]}"
    arguments = ("--network", "host", "--build-arg", f"PYTHON_TAG={PYTHON_TAG}", "-t", tag)
    built = docker("build", *arguments, str(ROOT / ".devcontainer"))
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    try:
        for program in ("python3", "node", "npm", "make", "git", "curl", "jq"):
            ran = docker("run", "--rm", tag, program, "--version")
            assert ran.returncode == 0, ran.stderr
        assert docker("run", "--rm", tag, "node", "--version").stdout.startswith("v22.")
    finally:
        docker("image", "rm", "--force", tag)
