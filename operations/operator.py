"""`python -m operations.operator FOLDER`: create the operator of your own nats-servers, one for all of them.

It writes what the control plane needs (`operator.seed`, `system.creds`) and what the servers' configuration includes
(`operator.conf`, which contains no secret). The seed gives full control of these servers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ADMINISTRATOR
from control_plane.errors import ProvisioningError
from control_plane.files import write_private

SEED: Final = "operator.seed"
SYSTEM_CREDS: Final = "system.creds"
CONFIG: Final = "operator.conf"

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def make(folder: Path, name: str) -> None:
    """Write the three files. Raises `ProvisioningError` if the folder has an operator, or cannot be written."""
    if (folder / SEED).exists():
        raise ProvisioningError(f"{folder / SEED} is there, and a new operator would void what it signed; use it")
    operator, system = Key.operator(), Key.account()
    write_private(folder / SEED, f"{operator.seed}\n")
    write_private(folder / SYSTEM_CREDS, claims.mint_creds(ADMINISTRATOR, system, account=system.public))
    write_private(folder / CONFIG, config(name, operator, system))
    (folder / CONFIG).chmod(0o644)


def config(name: str, operator: Key, system: Key) -> str:
    """Return the part of nats-server's configuration that names the operator and its system account."""
    return (
        f"operator: {claims.operator_jwt(name, operator, system.public)}\n"
        f"system_account: {system.public}\n"
        f"resolver_preload {{ {system.public}: {claims.account_jwt('SYS', system.public, operator)} }}\n"
    )


@cli.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where the three files go; keep it as you keep a password.")],
    name: Annotated[str, typer.Option(help="The operator's name.")] = "devices",
) -> None:
    """Create an operator, its system account, and the servers' configuration for both."""
    try:
        make(folder, name)
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    for file in (SEED, SYSTEM_CREDS, CONFIG):
        print(f"created  {folder / file}")


if __name__ == "__main__":
    cli(prog_name="python -m operations.operator")
