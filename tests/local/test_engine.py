"""Which DynamoDB engine a machine gets, and what its owner is told."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.process import LocalError, claim_port
from local.servers import engine as module
from local.servers.dynamodb import create_table, dynamodb, environment
from local.servers.engine import IMAGE, engine

DOCKER = """\
case "$1" in
  image) exit {inspect} ;;
  pull) echo "pulled $2"; exit {pull} ;;
  run)
    echo "$@" > {seen}; port=${{5#127.0.0.1:}}; port=${{port%:8000}}
    {python} -c 'import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as proxy:
    for _ in range(3):
        proxy.accept()[0].close()' $port
    exec {python} -m local.servers.moto_server $port ;;
esac
"""
"""Its proxy accepts connections before the engine does."""


@pytest.fixture
def another_platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make this machine one for which npm has no engine."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    module._docker_has_image.cache_clear()
    yield
    module._docker_has_image.cache_clear()


def docker(folder: Path, monkeypatch: pytest.MonkeyPatch, *, inspect: int, pull: int) -> Path:
    """Put a program `docker` in the PATH, alone; return where it writes how it was run."""
    program, seen = folder / "docker", folder / "seen"
    text = DOCKER.format(inspect=inspect, pull=pull, seen=shlex.quote(str(seen)), python=shlex.quote(sys.executable))
    program.write_text(f"#!/bin/bash\n{text}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return seen


def test_one_that_npm_has_and_did_not_install_is_an_error_with_its_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not moto's, of which nobody would think that the set-up had failed."""
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(module, "_MODULES", tmp_path / "node_modules" / "@dynoxide")
    with pytest.raises(LocalError, match=rf"no DynamoDB engine in {tmp_path}.*remove .*\.current and run make again"):
        engine()


@pytest.mark.usefixtures("another_platform")
@pytest.mark.parametrize(("inspect", "pull"), [(0, 1), (1, 0)], ids=["the image is there", "the image is fetched"])
async def test_amazons_in_docker_where_npm_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inspect: int, pull: int
) -> None:
    seen = docker(tmp_path, monkeypatch, inspect=inspect, pull=pull)
    assert engine().instead == f"npm has no engine for this platform: it is {IMAGE} in Docker, slower"
    port, store = claim_port(0, ""), tmp_path / "store"
    async with dynamodb(store, port):
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await reader.read(5)) == b"HTTP/", "it answers from the first request on"
            writer.close()
        assert await create_table("balances", environment(port))
    command = seen.read_text()
    assert f"--volume {store}:/data {IMAGE} " in command
    assert store.is_dir(), "else Docker makes it, as root"


@pytest.mark.usefixtures("another_platform")
@pytest.mark.parametrize("has_docker", [True, False])
def test_motos_where_docker_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_docker: bool) -> None:
    docker(tmp_path, monkeypatch, inspect=1, pull=1)
    if not has_docker:
        (tmp_path / "docker").unlink()
    chosen = engine()
    assert "Docker does not run one: it is moto's server" in chosen.instead
    assert "local.servers.moto_server" in chosen.command(tmp_path, 8000)
