"""Which DynamoDB engine runs on this machine: npm's, else Amazon's own in Docker, else moto's server."""

from __future__ import annotations

import functools
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.process import LocalError

IMAGE: Final = "amazon/dynamodb-local:3.1.0"
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/DynamoDBLocal.DownloadingAndRunning.html"""
FILE: Final = "dynamodb.sqlite"
_NPM: Final = Path(__file__).parents[1]
_MODULES: Final = _NPM / "node_modules" / "@dynoxide"
_WHILE_STDIN_IS_OPEN: Final = 'exec 3<&0; { read -r _ <&3; kill 1; } & exec "$0" "$@"'
"""Runs a command as the container's first process. A shell's job in the background has no stdin: it reads a copy."""


@dataclass(frozen=True)
class Engine:
    command: Callable[[Path | None, int], Sequence[str]]
    """The command for the folder of its file (None: in memory) and for its port."""
    instead: str = ""
    """What runs in place of npm's engine, and why; empty for npm's."""


def engine() -> Engine:
    """Choose the engine; the first choice of Docker's fetches its image.

    Raises `LocalError` when npm has an engine for this platform and did not install it.
    """
    if has_engine():
        return Engine(_npms)
    if f"@dynoxide/{_platform()}" in json.loads((_NPM / "package.json").read_text())["optionalDependencies"]:
        raise _missing()
    if _docker_has_image():
        return Engine(_amazons, f"npm has no engine for this platform: it is {IMAGE} in Docker, slower")
    return Engine(
        _motos,
        "npm has no engine for this platform, and Docker does not run one: it is moto's server; rates and latencies "
        "then mean nothing",
    )


def has_engine() -> bool:
    """Return whether npm has installed an engine for this platform."""
    return _path().exists()


def binary() -> Path:
    """Return the path of npm's engine. Raises `LocalError` when npm has not installed one."""
    if not has_engine():
        raise _missing()
    return _path()


def _missing() -> LocalError:
    return LocalError(
        f"no DynamoDB engine in {_MODULES}; install Node 20 or newer, remove {_MODULES.parent / '.current'} and run "
        f"make again, or, where that brings none, `npm install --prefix local --no-save @dynoxide/{_platform()}`"
    )


def _platform() -> str:
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower())
    return f"{platform.system().lower()}-{machine or platform.machine()}"


def _path() -> Path:
    return _MODULES / _platform() / "dynoxide"


def _npms(folder: Path | None, port: int) -> Sequence[str]:
    return [str(binary()), "serve", "--port", str(port), *(["--db-path", str(folder / FILE)] if folder else [])]


def _amazons(folder: Path | None, port: int) -> Sequence[str]:
    """As root: the program is in a home that other users may not enter. Its file is in a folder of this user's, who can
    remove it: https://github.com/awsdocs/amazon-dynamodb-developer-guide/issues/297

    The container does not end when `docker run` is killed. But then its stdin ends, and with it the engine.
    """
    run = ["docker", "run", "--rm", "--interactive", "--publish", f"127.0.0.1:{port}:8000", "--entrypoint", "sh"]
    program = [IMAGE, "-c", _WHILE_STDIN_IS_OPEN, "java", "-jar", "DynamoDBLocal.jar", "-sharedDb"]
    if folder is None:
        return [*run, *program, "-inMemory"]
    folder.mkdir(parents=True, exist_ok=True)
    return [*run, "--user", "root", "--volume", f"{folder.resolve()}:/data", *program, "-dbPath", "/data"]


def _motos(_folder: Path | None, port: int) -> Sequence[str]:
    return [sys.executable, "-m", "local.servers.moto_server", str(port)]


@functools.cache
def _docker_has_image() -> bool:
    """Return whether Docker answers and has the image, which it fetches with its progress on stderr."""
    docker = shutil.which("docker")
    if not docker:
        return False
    is_there = subprocess.run([docker, "image", "inspect", IMAGE], capture_output=True, check=False)  # noqa: S603
    if is_there.returncode == 0:
        return True
    return subprocess.run([docker, "pull", IMAGE], stdout=sys.stderr, check=False).returncode == 0  # noqa: S603
