"""The servers for devices: nats-server takes their configuration, and three form a cluster that devices reach."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner

from control_plane.auth.claims import Key
from local.process import ROOT, Child, claim_port, running
from local.servers.nats_server import binary
from operations import operator

FOLDER = ROOT / "deploy" / "nats"
CONFIG = (FOLDER / "nats-server.conf").read_text()
VARIABLES = {"NATS_NAME", "NATS_CERTIFICATE", "NATS_KEY", "NATS_CA", "NATS_STORE", "NATS_ACCOUNTS"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def node(number: int, folder: Path, authority: trustme.CA, config: str = CONFIG) -> tuple[Path, dict[str, str]]:
    """Write what a machine has; return its configuration and its variables."""
    leaf = authority.issue_cert(f"nats-{number}", "localhost", "127.0.0.1")
    home = folder / f"nats-{number}"
    home.mkdir()
    leaf.private_key_pem.write_to_path(home / "tls.key")
    leaf.cert_chain_pems[0].write_to_path(home / "tls.crt")
    authority.cert_pem.write_to_path(home / "ca.crt")
    (home / "nats-server.conf").write_text(config)
    (home / "operator.conf").write_text((folder / "operator" / operator.CONFIG).read_text())
    return home / "nats-server.conf", {
        "NATS_NAME": f"nats-{number}",
        "NATS_CERTIFICATE": str(home / "tls.crt"), "NATS_KEY": str(home / "tls.key"), "NATS_CA": str(home / "ca.crt"),
        "NATS_STORE": str(home / "jetstream"), "NATS_ACCOUNTS": str(home / "accounts"),
    }  # fmt: skip


def checked(config: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary(), "-t", "-c", str(config)], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def test_nats_server_takes_it_on_each_machine(tmp_path: Path, authority: trustme.CA) -> None:
    operator.make(tmp_path / "operator", "devices")
    for number in range(3):
        said = checked(*node(number, tmp_path, authority))
        assert said.returncode == 0, said.stderr
        assert "is valid" in said.stderr


def test_a_word_that_the_server_does_not_know_fails_the_check(tmp_path: Path, authority: trustme.CA) -> None:
    """So the check above checks."""
    operator.make(tmp_path / "operator", "devices")
    config, env = node(0, tmp_path, authority, CONFIG.replace("stream_replicas", "stream_replica"))
    assert checked(config, env).returncode != 0


def test_the_readme_names_every_variable_and_every_port() -> None:
    readme = (FOLDER / "README.md").read_text()
    used = set(re.findall(r"\$(NATS_\w+)", CONFIG))
    assert used == VARIABLES
    assert all(f"`{name}`" in readme for name in used)
    ports = set(re.findall(r'"(?:0\.0\.0\.0|127\.0\.0\.1):(\d+)"', CONFIG))
    assert {port for port in ports if f"| {port} |" not in readme} == set()


async def accepts_mqtt(port: int, authority: trustme.CA) -> bytes:
    """What the server says to a CONNECT without a password, over TLS that trusts the CA."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04none")
        return await asyncio.wait_for(reader.read(4), 30)
    finally:
        writer.close()


@pytest.fixture
async def cluster(tmp_path: Path, authority: trustme.CA) -> AsyncIterator[list[tuple[Child, dict[str, int]]]]:
    """The three on one machine, so on other ports; the rest of the file is as it is."""
    operator.make(tmp_path / "operator", "devices")
    ports = [{given: claim_port(0, "") for given in ("4222", "8222", "8883", "6222")} for _ in range(3)]
    async with AsyncExitStack() as stack:
        started = []
        for number, mine in enumerate(ports):
            config = CONFIG
            for other, theirs in enumerate(ports):
                config = config.replace(f"tls://nats-{other}:6222", f"tls://127.0.0.1:{theirs['6222']}")
            for given, port in mine.items():
                config = config.replace(f"0.0.0.0:{given}", f"127.0.0.1:{port}")
                config = config.replace(f'"127.0.0.1:{given}"', f'"127.0.0.1:{port}"')
            path, env = node(number, tmp_path, authority, config)
            command = [binary(), "-c", str(path)]
            log = tmp_path / f"{number}.log"
            started.append((await stack.enter_async_context(running("nats-server", command, log, env=env)), mine))
        yield started


async def test_three_of_them_form_a_cluster_that_devices_reach_over_tls(
    cluster: list[tuple[Child, dict[str, int]]], authority: trustme.CA
) -> None:
    async def is_healthy(port: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return b'"status":"ok"' in answer

    async with asyncio.timeout(60):
        for _, ports in cluster:
            while not await is_healthy(ports["8222"]):
                await asyncio.sleep(0.1)
    for _, ports in cluster:
        said = await accepts_mqtt(ports["8883"], authority)
        assert said == b"\x20\x02\x00\x05", "CONNACK: not authorized"


def test_an_operator_is_made_once_and_its_seed_is_the_owners_alone(tmp_path: Path) -> None:
    made = CliRunner().invoke(operator.cli, [str(tmp_path / "keys")])
    assert made.exit_code == 0, made.output
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}
    assert modes == {"operator.seed": 0o600, "system.creds": 0o600, "operator.conf": 0o644}
    seed = (tmp_path / "keys" / "operator.seed").read_text()
    assert Key.from_seed(seed).public.startswith("O")
    assert seed.strip() not in (tmp_path / "keys" / "operator.conf").read_text()
    again = CliRunner().invoke(operator.cli, [str(tmp_path / "keys")])
    assert again.exit_code == 1
    assert (tmp_path / "keys" / "operator.seed").read_text() == seed
