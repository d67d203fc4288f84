"""Provision NATS for the balance service: on Synadia Cloud, or on your own nats-server (--server).

Exit codes: 0 success, 2 an invalid argument, 3 `status` found drift, 1 any other failure.
The options below may come before or after the command.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from control_plane.cli import report
from control_plane.cli.command import (
    NATS_URL,
    AsJson,
    asynchronous,
    console,
    files_of,
    found_account,
    initials_in,
    parts_named,
    size_in_bytes,
    user_named,
)
from control_plane.cli.deployment_commands import secret_cli, seed_cli
from control_plane.cli.device_commands import device_cli, devices_of
from control_plane.cli.options import unfold
from control_plane.cli.shared_options import SharedOptions
from control_plane.cli.wanted import Secret, Wanted
from control_plane.desired import ACCOUNT, CLIENT, SERVICE
from control_plane.errors import ProvisioningError, UsageError
from control_plane.files import Files
from control_plane.plan import Plan
from control_plane.provider import Provider
from control_plane.reconcile import reconcile, rotation
from control_plane.target import Target, account_files, account_name, ask, open_provider

DIFFERENT: Final = 3
cli = typer.Typer(
    cls=SharedOptions, help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
cli.add_typer(secret_cli, name="secret")
cli.add_typer(seed_cli, name="seed-flag")
cli.add_typer(device_cli, name="device")
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


@cli.callback()
@unfold
def shared(ctx: typer.Context, *, target: Target) -> None:
    ctx.obj = target


@cli.command("list")
@asynchronous
async def list_accounts(target: Target, *, as_json: AsJson = False) -> None:
    """List the accounts of a system."""
    async with open_provider(target) as provider:
        accounts = await provider.accounts()
    if as_json:
        print(json.dumps([vars(account) for account in accounts], indent=2))
        return
    table = Table("name", "id", "kind", box=None, pad_edge=False)
    for account in accounts:
        kind = "system" if account.is_system else "ours" if account.is_ours else ""
        table.add_row(escape(account.name), account.id, kind)
    console.print(table)


@cli.command()
@unfold
@asynchronous
async def create(
    target: Target,
    *,
    wanted: Wanted,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over an account that this program did not create.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; change nothing.")] = False,
) -> None:
    """Create account, users, credentials, stream and bucket, or correct what has drifted.

    A second run changes nothing; after a failure, the next run continues where the last one stopped.
    """
    async with open_provider(target) as provider:
        planned = await _plan(provider, target, wanted, adopt=adopt)
        for remark in planned.remarks:
            console.print(f"[yellow]note[/]     {escape(remark)}")
        if not planned.changes:
            console.print(f"nothing to do: account {planned.name} is as wanted")
        elif dry_run:
            for step in planned.changes:
                console.print(f"would {step.action:7} {report.describe(step)}")
        else:
            async for step in reconcile.apply(provider, planned):
                done = "created" if step.action == "create" else "changed"
                console.print(f"[green]{done}[/]  {report.describe(step)}")
            console.print(_next(target, planned.name))


@cli.command()
@unfold
@asynchronous
async def status(target: Target, *, wanted: Wanted, as_json: AsJson = False) -> None:
    """Compare the desired with the actual state. Exit with 3 if they differ."""
    async with open_provider(target) as provider:
        planned = await _plan(provider, target, wanted)
    if as_json:
        print(json.dumps(report.as_json(planned), indent=2))
    else:
        report.print_status(console, planned)
    if planned.changes:
        raise typer.Exit(DIFFERENT)


@cli.command()
@asynchronous
async def rotate(
    target: Target,
    *,
    user: Annotated[str, typer.Option(help="The user.")],
    secret: Secret = False,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Keep the old ones valid until `revoke`, for a roll without a gap.")
    ] = False,
) -> None:
    """Give a user new credentials, then revoke the old ones unless --keep-old is given.

    After a failure, the next run continues where the last one stopped.
    """
    whose = user_named(user)
    if secret and whose != SERVICE:
        raise UsageError(f"the secret is user {SERVICE.name}'s; leave --secret out for {user}")
    async with open_provider(target) as provider:
        account, files = await found_account(provider, target)
        if whose.devices:
            console.print(escape(await devices_of(provider, account.id).rotate(keep_old=keep_old)))
            return
        initials = initials_in(account.name) if secret else None
        work_on = rotation.issue if keep_old else rotation.rotate
        async for line in work_on(provider, account.id, whose, files, initials):
            console.print(escape(line))


@cli.command()
@asynchronous
async def revoke(
    target: Target,
    *,
    key: Annotated[str, typer.Option(help="Public key of the user with the old credentials, U...")],
) -> None:
    """Revoke old credentials: clients connected with them are disconnected and cannot connect again."""
    if not re.fullmatch(r"U[A-Z2-7]{55}", key):
        raise UsageError(f"{key} is not a user's public key; it begins with U and has 56 characters")
    async with open_provider(target) as provider:
        account, _ = await found_account(provider, target)
        await provider.revoke(account.id, key)
        console.print(f"[green]revoked[/]  {key}")


@cli.command()
@asynchronous
async def delete(target: Target, *, yes: Yes = False) -> None:
    """Delete the account and everything in it: users, stream, bucket, credentials."""
    name = account_name(target.initials)
    async with open_provider(target) as provider:
        account = await reconcile.find(provider, name)
        if account is None:
            _delete_left_behind(files_of(target), name)
            return
        steps = await reconcile.deletions(provider, account, account_files(target.config, account.name))
        console.print("this goes, with everything in it:")
        for step in steps:
            console.print(f"  {escape(step.resource)}")
        if not yes and ask(f"type {account.name} to go on: ") != account.name:
            raise ProvisioningError("that is not its name; nothing was removed")
        for step in steps:
            await step.do(account.id)
            console.print(f"[green]removed[/]  {escape(step.resource)}")


async def _plan(provider: Provider, target: Target, wanted: Wanted, *, adopt: bool = False) -> Plan:
    stream_bytes = size_in_bytes(wanted.stream_size) if wanted.stream_size else None
    name = account_name(target.initials)
    account = await reconcile.find(provider, name, adopt=adopt)
    name = account.name if account else name.upper()
    files = account_files(target.config, name)
    desired = ACCOUNT.plus(parts_named(wanted.with_ or ()))
    initials = initials_in(name) if wanted.secret else None
    return await reconcile.compare(provider, name, account, desired, files, initials, stream_bytes, wanted.devices)


def _delete_left_behind(files: Files, name: str) -> None:
    if files.is_empty():
        console.print(f"nothing to do: there is no account {name}")
        return
    files.remove()
    console.print(f"[green]removed[/]  credentials in {escape(str(files.folder))}; account {name} was gone")


def _next(target: Target, account: str) -> str:
    files, url = account_files(target.config, account), target.server or NATS_URL
    service, client = (shlex.quote(str(files.creds_path(user))) for user in (SERVICE.name, CLIENT.name))
    return escape(
        f"""
Nothing runs in a new account: requesters are told "no responders". Run the service, on AWS
  make deploy
or here, with AWS credentials and a table (`make up` prints those of the local one)
  NATS_URL={shlex.quote(url)} NATS_CREDENTIALS="$(base64 < {service} | tr -d '\\n')" DDB_TABLE=balances \\
    {shlex.quote(sys.executable)} -m service
and then ask it
  nats --server {shlex.quote(url)} --creds {client} req customer.balance '{{"client_id":"678"}}'"""
    )


if __name__ == "__main__":
    cli(prog_name="python -m control_plane")
