"""`device add|list|revoke`: which devices may connect over MQTT."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from control_plane.cli.command import AsJson, asynchronous, console, found_account
from control_plane.cli.recipe import Broker, cfg_toml, described, publish_line
from control_plane.devices import Devices, Minted, check_names
from control_plane.errors import ProvisioningError, UsageError
from control_plane.files import write_private
from control_plane.provider import Provider
from control_plane.reconcile.reconcile import NO_DEVICES
from control_plane.self_hosted.provider import SelfHosted
from control_plane.target import Target, open_provider, say

device_cli = typer.Typer(help="Devices: who may connect over MQTT.", no_args_is_help=True)
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="The device's name, which is its id.")]
NamesFile = Annotated[Path | None, typer.Option("--file", help="A file with one name on each line.")]


@device_cli.command("add")
@asynchronous
async def device_add(
    target: Target,
    *,
    names: Names = None,
    file: NamesFile = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder: write each JWT to NAME.jwt, which its owner alone can read.")
    ] = None,
    mqtt: Annotated[
        str,
        typer.Option("--mqtt", envvar="MQTT_URL", help="Where devices connect; default: --server's host, port 1883."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Allow devices to connect: print each one's JWT, which is its password and shown only once, and how to use it.

    A device that was already added gets one more JWT. All its JWTs are valid until it is revoked.
    """
    wanted, broker = _named(names, file), Broker.parse(mqtt, target.server)
    told: list[dict[str, Any]] = []
    done = 0
    async with _devices(target) as devices:
        async for some in devices.add(wanted):
            for minted in some:
                path = _written(out, minted)
                if as_json:
                    told.append(described(broker, minted, path))
                elif len(wanted) == 1:
                    _explain(broker, minted, path)
                elif path is None:
                    print(f"{minted.name}\t{minted.jwt}")
            done += len(some)
            if len(wanted) > 1:
                say(f"added {done:,} of {len(wanted):,}" + (f", in {out}" if out else ""))
    if as_json:
        print(json.dumps(told, indent=2))


@device_cli.command("list")
@asynchronous
async def device_list(target: Target, *, as_json: AsJson = False) -> None:
    """List the devices that were added or seen, with their state as the role `devices` reports it."""
    async with _devices(target) as devices:
        found = await devices.known()
    if as_json:
        print(json.dumps([vars(device) for device in found], indent=2))
        return
    table = Table("name", "state", "since", "added", box=None, pad_edge=False)
    for device in found:
        table.add_row(escape(device.name), device.state, _time(device.since), _time(device.added))
    console.print(table)


@device_cli.command("revoke")
@asynchronous
async def device_revoke(target: Target, *, names: Names = None, file: NamesFile = None) -> None:
    """Revoke devices: each is disconnected at once, and none of its JWTs is valid any more."""
    wanted = _named(names, file)
    async with _devices(target) as devices:
        revoked = await devices.revoke(wanted)
    if len(wanted) == 1:
        console.print(f"[green]revoked[/]  {wanted[0]}" if revoked else f"nothing to do: {wanted[0]} is revoked")
    else:
        console.print(f"[green]revoked[/]  {len(revoked):,} of {len(wanted):,}; the others were revoked before")


def devices_of(provider: Provider, account: str) -> Devices:
    """Return an account's devices. Raises `UsageError` on Synadia Cloud."""
    if not isinstance(provider, SelfHosted):
        raise UsageError(NO_DEVICES)
    return Devices(provider, account)


@asynccontextmanager
async def _devices(target: Target) -> AsyncIterator[Devices]:
    if target.server is None:
        raise UsageError(NO_DEVICES)
    async with open_provider(target) as provider:
        account, _ = await found_account(provider, target)
        yield devices_of(provider, account.id)


def _named(names: list[str] | None, file: Path | None) -> list[str]:
    if names and file:
        raise UsageError("give names or --file, not both")
    if file is None:
        return check_names(names or ())
    try:
        return check_names(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise ProvisioningError(f"{file} cannot be read ({reason})") from None


def _written(folder: Path | None, minted: Minted) -> Path | None:
    if folder is None:
        return None
    path = folder / f"{minted.name}.jwt"
    write_private(path, minted.jwt + "\n")
    return path


def _explain(broker: Broker, minted: Minted, path: Path | None) -> None:
    """Print lines to paste: into a shell, and into the firmware's `cfg.toml`."""
    print(f"# A first reading of {minted.name}, by mosquitto's program:")
    print(publish_line(broker, minted, path))
    print("\n# The firmware's cfg.toml:")
    print(cfg_toml(broker, minted, path))
    if path is None:
        say("the JWT is kept nowhere: this is the only time that it is shown")


def _time(second: float | None) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if second else ""
