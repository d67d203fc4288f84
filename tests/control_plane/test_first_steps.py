"""What a person is told who makes the first account: what to run next, whose account it is, which options there are."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from control_plane.__main__ import cli
from control_plane.files import write_private
from control_plane.parts import PARTS
from deploy import file
from local.process import ROOT
from tests.support.world import Servers


@pytest.fixture
def place(servers: Servers, tmp_path: Path) -> list[str]:
    """Options for the real server, and a folder whose name has a space."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    write_private(folder / "operator.seed", servers.operator.seed)
    write_private(folder / "system.creds", servers.system_creds)
    return [
        "--server", servers.nats_url, "--operator", str(folder / "operator.seed"),
        "--system-creds", str(folder / "system.creds"), "--config", str(folder / "config"),
    ]  # fmt: skip


async def run(*arguments: str, **env: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, cli, arguments, env={"COLUMNS": "300", **env})


async def test_create_says_that_nothing_runs_yet_and_what_to_run(place: list[str], servers: Servers) -> None:
    made = await run("create", "--initials", "next", *place)
    assert made.exit_code == 0, made.output
    told = made.output[made.output.index("Nothing runs in a new account") :]
    assert "make deploy" in told
    assert "-m service" in told
    lines = told.replace("\\\n", "").splitlines()
    own, asking = [shlex.split(line) for line in lines if "-m service" in line or "nats --server" in line]
    assert f"NATS_URL={servers.nats_url}" in own
    creds = Path(asking[asking.index("--creds") + 1])
    assert creds.is_file(), "a path with a space is quoted"
    (service_creds,) = re.findall(r"base64 < '([^']+)'", told)
    assert Path(service_creds).is_file()
    assert (await run("delete", "--yes", "--initials", "next", *place)).exit_code == 0


@pytest.mark.parametrize(
    ("settings", "env", "account"),
    [('initials = "one"', {"INITIALS": "two"}, "POC-ONE"), ('initials = ""', {"INITIALS": "two"}, "POC-TWO")],
)
async def test_the_initials_are_those_of_the_deployment(
    settings: str, env: dict[str, str], account: str, place: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.toml").write_text(settings)
    monkeypatch.setattr(file, "FILE", tmp_path / "settings.toml")
    ran = await run("create", "--dry-run", *place, **env)
    assert f"account {account}" in ran.output


async def test_settings_that_cannot_be_read_are_named(
    place: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.toml").write_text("initials = ")
    monkeypatch.setattr(file, "FILE", tmp_path / "settings.toml")
    ran = await run("create", "--dry-run", *place)
    assert ran.exit_code == 1
    assert "error: settings.toml: " in ran.output


@pytest.mark.parametrize("command", ["create", "status", "delete"])
async def test_a_commands_help_lists_the_options_of_all_commands(command: str) -> None:
    output = (await run(command, "--help")).output
    for option in ("--initials", "--server", "--operator", "--system-creds", "--config"):
        assert option in output


async def test_with_names_what_it_takes() -> None:
    output = (await run("create", "--help")).output
    assert ", ".join(part.name for part in PARTS) in output


def test_typers_program_completes_the_commands() -> None:
    """As the page about the control plane says, and as a shell asks."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "_TYPER_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    for words, found in {
        "control_plane.__main__ run cre": ["create"],
        "operations.operator run --na": ["--name"],
    }.items():
        asked = {**env, "COMP_WORDS": f"typer {words}"}
        program = Path(sys.executable).with_name("typer")
        done = subprocess.run([program], env=asked, capture_output=True, text=True, check=True)
        assert done.stdout.split() == found
