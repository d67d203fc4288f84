"""Add devices to the running local system, and say how each publishes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import indent

from control_plane.cli.recipe import Broker, cfg_toml, publish_line
from control_plane.devices import Devices, Minted, check_names
from control_plane.files import write_private
from control_plane.reconcile import reconcile
from control_plane.self_hosted import provider as self_hosted
from control_plane.self_hosted.provider import SelfHosted
from local.process import LocalError
from local.servers.certificate import AUTHORITY
from local.state import State
from local.system import ACCOUNT_NAME, System


@dataclass(frozen=True)
class Announced(Broker):
    """A running system, as its devices reach it, and the program that adds them."""

    nats_url: str = ""


@contextmanager
def announced(system: System) -> Iterator[Announced]:
    """Keep in the state where devices connect, for `add` in another process, while the system runs."""
    if not system.mqtt:
        raise LocalError("this system takes no devices; run `make up DEVICES=1`")
    authority = str(system.state.folder / "keys" / AUTHORITY) if system.mqtt.certificate else ""
    broker = Announced(system.mqtt_host, system.mqtt.port, bool(authority), authority, system.nats_url)
    path = _path(system.state)
    write_private(path, json.dumps(asdict(broker)))
    try:
        yield broker
    finally:
        path.unlink(missing_ok=True)


def announcement(state: State) -> Announced:
    """Return what the running system has announced. Raises `LocalError` when there is nothing."""
    try:
        return Announced(**json.loads(_path(state).read_text()))
    except (OSError, ValueError, TypeError):
        raise LocalError(f"no system that takes devices runs in {state.folder}; run `make up DEVICES=1`") from None


async def add(state: State, nats_url: str, names: Sequence[str], account_name: str = ACCOUNT_NAME) -> dict[str, Path]:
    """Let devices connect; return the file of each one's password, which its owner alone can read.

    Raises `ProvisioningError` for a name that no device can have.
    """
    files: dict[str, Path] = {}
    async with self_hosted.connected(nats_url, state.system_creds()) as system:
        provider = SelfHosted(nats_url, system, state.operator(), state.system().public)
        account = await reconcile.find(provider, account_name)
        if account is None:
            raise LocalError(f"there is no account {account_name} on {nats_url}; run `make up DEVICES=1`")
        async for some in Devices(provider, account.id).add(check_names(names)):
            for minted in some:
                files[minted.name] = state.folder / "devices" / f"{minted.name}.jwt"
                write_private(files[minted.name], minted.jwt + "\n")
    return files


def recipe(broker: Broker, name: str, password: Path) -> str:
    """Return lines, ready to paste, by which a device publishes."""
    tls = f"MQTT_CA={shlex.quote(broker.authority)} " if broker.authority else ""
    variable = f"MQTT_PASSWORD={shlex.quote(str(password))}"
    minted = Minted(name, "")
    return f"""
[bold]{name}, in Python: a reading each second[/]
  {tls}MQTT={broker.host}:{broker.port} {variable} \\
    {sys.executable} -m examples.device {name}

[bold]{name}, in shell, with mosquitto's programs[/]
  {tls}MQTT_HOST={broker.host} MQTT_PORT={broker.port} {variable} examples/device/device.sh {name}

[bold]{name}, one reading by mosquitto's program[/]
  {publish_line(broker, minted, password)}

[bold]{name}, the firmware's cfg.toml[/]
{indent(cfg_toml(broker, minted, password), "  ")}
"""


def _path(state: State) -> Path:
    return state.folder / "devices" / "broker.json"
