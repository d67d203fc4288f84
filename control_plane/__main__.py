"""Provision NATS for the balance service: on Synadia Cloud, or on your own nats-server (--server)."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import nats.errors
import typer
from nats.js.errors import Error as JetStreamError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from control_plane import aws, claims, reconcile, report, seed_flag
from control_plane.desired import ACCOUNT, EVERYTHING, PARTS, SERVICE, Part
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.options import unfold
from control_plane.reconcile import Plan
from control_plane.target import CONFIG, Target, account_name, ask, initials_of_account, open_provider, service_creds

NATS_URL: Final = "tls://connect.ngs.global"
DIFFERENT: Final = 2

cli = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
secret_cli = typer.Typer(help="The service's credentials in AWS Secrets Manager.", no_args_is_help=True)
seed_cli = typer.Typer(help="The flag that says the table was seeded.", no_args_is_help=True)
cli.add_typer(secret_cli, name="secret")
cli.add_typer(seed_cli, name="seed-flag")
console = Console(highlight=False, soft_wrap=True, emoji=False)
T = TypeVar("T")

Initials = Annotated[str | None, typer.Option(help="The account is POC-<initials>; else the AWS caller's are taken.")]
Config = Annotated[Path, typer.Option(help="The folder for credentials and tokens.")]
AsJson = Annotated[bool, typer.Option("--json", help="For a script to read.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@cli.command("list")
@unfold
def list_accounts(
    *,
    target: Target,
    as_json: AsJson = False,
) -> None:
    """List the accounts of a system."""

    async def work() -> None:
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

    _run(work())


@cli.command()
@unfold
def create(
    *,
    initials: Initials = None,
    with_: Annotated[
        list[str] | None, typer.Option("--with", help="Also what an optional role needs; may be given several times.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and touch nothing.")] = False,
    target: Target,
) -> None:
    """Make account, users, credentials, stream and bucket, or put right what has drifted.

    Run again, it changes nothing; run after a failure, it goes on where that stopped.
    """

    async def work() -> None:
        async with open_provider(target) as provider:
            wanted = ACCOUNT.plus(_parts(with_ or ()))
            planned = await reconcile.plan(provider, account_name(initials), wanted, Files(target.config))
            for remark in planned.remarks:
                console.print(f"[yellow]note[/]     {escape(remark)}")
            if not planned.changes:
                console.print(f"nothing to do: account {planned.name} is as wanted")
            elif dry_run:
                for step in planned.changes:
                    console.print(f"would {step.action:7} {report.describe(step)}")
            else:
                async for step in reconcile.apply(provider, planned, wanted):
                    done = "created" if step.action == "create" else "changed"
                    console.print(f"[green]{done}[/]  {report.describe(step)}")
                console.print(_next(target))

    _run(work())


@cli.command()
@unfold
def status(
    *,
    initials: Initials = None,
    target: Target,
    as_json: AsJson = False,
) -> None:
    """Show what is wanted beside what is there. Exit code 2 when they differ."""

    async def work() -> Plan:
        async with open_provider(target) as provider:
            return await reconcile.plan(provider, account_name(initials), ACCOUNT, Files(target.config))

    planned = _run(work())
    if as_json:
        print(json.dumps(report.as_json(planned), indent=2))
    else:
        report.print_status(console, planned)
    if planned.changes:
        raise typer.Exit(DIFFERENT)


@cli.command()
@unfold
def rotate(
    *,
    user: Annotated[str, typer.Option(help="Whose credentials.")],
    secret: Annotated[bool, typer.Option("--secret", help="Also push them to AWS Secrets Manager.")] = False,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Leave the old ones valid until `revoke`: for a roll without a gap.")
    ] = False,
    initials: Initials = None,
    target: Target,
) -> None:
    """Give a user new credentials; the old ones are void at once, unless they are kept for a while."""

    async def work() -> None:
        names = [wanted.name for wanted in EVERYTHING.users]
        if user not in names:
            raise ProvisioningError(f"there is no user {user}; give one of {', '.join(names)}")
        if secret and user != SERVICE.name:
            raise ProvisioningError(f"the secret is user {SERVICE.name}'s; leave --secret out for {user}")
        files = Files(target.config)
        given = initials_of_account(initials)
        async with open_provider(target) as provider:
            account = await reconcile.find(provider, f"POC-{given}")
            if account is None:
                raise ProvisioningError(f"there is no account POC-{given}; run create")
            old = files.creds(user)
            creds = await (provider.issue if keep_old else provider.rotate)(account.id, user)
            files.write_creds(user, creds)
            remark = "the old credentials are void"
            if keep_old:
                key = claims.decode(claims.token_of(old))["sub"] if old else "THE_OLD_ONES_PUBLIC_KEY"
                remark = f"when nothing uses the old ones any more: revoke --key {key}"
            console.print(f"[green]rotated[/]  {escape(str(files.creds_path(user)))}; {remark}")
            if EVERYTHING.user(user).gateway and provider.has_gateway:
                files.write_token(user, await provider.gateway_token(account.id, user))
                console.print(f"[green]renewed[/]  {escape(str(files.token_path(user)))}")
        if secret:
            arn = await asyncio.to_thread(aws.push_secret, given, creds)
            console.print(f"[green]pushed[/]   {arn}; tasks take it up at their next roll")

    _run(work())


@cli.command()
@unfold
def revoke(
    *,
    key: Annotated[str, typer.Option(help="The public key of the user whose credentials they are, U...")],
    initials: Initials = None,
    target: Target,
) -> None:
    """Make old credentials void: what is connected with them is cut off, and cannot connect again."""

    async def work() -> None:
        if not re.fullmatch(r"U[A-Z2-7]{55}", key):
            raise ProvisioningError(f"{key} is not a user's public key; it begins with U and has 56 characters")
        name = account_name(initials)
        async with open_provider(target) as provider:
            account = await reconcile.find(provider, name)
            if account is None:
                raise ProvisioningError(f"there is no account {name}; run create")
            await provider.revoke(account.id, key)
            console.print(f"[green]revoked[/]  {key}")

    _run(work())


@cli.command()
@unfold
def delete(
    *,
    yes: Yes = False,
    initials: Initials = None,
    target: Target,
) -> None:
    """Remove the account with all that is in it: users, stream, bucket, credentials."""

    async def work() -> None:
        name = account_name(initials)
        async with open_provider(target) as provider:
            account = await reconcile.find(provider, name)
            if account is None:
                console.print(f"nothing to do: there is no account {name}")
                return
            steps = await reconcile.deletions(provider, account, Files(target.config))
            console.print("this goes, with everything in it:")
            for step in steps:
                console.print(f"  {escape(step.resource)}")
            if not yes and await asyncio.to_thread(ask, f"type {name} to go on: ") != name:
                raise ProvisioningError("that is not its name; nothing was removed")
            for step in steps:
                await step.do(account.id)
                console.print(f"[green]removed[/]  {escape(step.resource)}")

    _run(work())


@secret_cli.command("push")
def secret_push(*, initials: Initials = None, config: Config = CONFIG, as_json: AsJson = False) -> None:
    """Put the service's credentials, in base64, into <initials>/NATSCreds, made or replaced."""

    async def work() -> None:
        creds = service_creds(config)
        name = aws.secret_name(initials_of_account(initials))
        arn = await asyncio.to_thread(aws.push_secret, initials_of_account(initials), creds)
        print(json.dumps({"name": name, "arn": arn}) if as_json else f"pushed {arn}")

    _run(work())


@secret_cli.command("delete")
def secret_delete(*, initials: Initials = None) -> None:
    """Delete <initials>/NATSCreds, at once."""

    async def work() -> None:
        name = aws.secret_name(initials_of_account(initials))
        there = await asyncio.to_thread(aws.delete_secret, initials_of_account(initials))
        console.print(f"deleted {name}" if there else f"nothing to do: there is no secret {name}")

    _run(work())


@seed_cli.command("clear")
def seed_flag_clear(
    *,
    nats_url: Annotated[str, typer.Option(envvar="NATS_URL", help="Where the service's account is.")] = NATS_URL,
    config: Config = CONFIG,
) -> None:
    """Remove the flag, so that the next task to start seeds again. Rows that are there are never overwritten."""

    async def work() -> None:
        cleared = await seed_flag.clear(nats_url, service_creds(config))
        console.print("cleared: the next task to start seeds" if cleared else "nothing to do: the flag is not set")

    _run(work())


def _parts(names: Sequence[str]) -> list[Part]:
    there = {part.name: part for part in PARTS}
    for name in names:
        if name not in there:
            raise ProvisioningError(
                f"there is no part {name}; --with takes one of: {', '.join(there) or 'none so far'}"
            )
    return [there[name] for name in dict.fromkeys(names)]


def _next(target: Target) -> str:
    creds = Files(target.config).creds_path("client")
    return escape(
        f"\nconnect:  nats --server {target.server or NATS_URL} --creds {creds} "
        'req customer.balance \'{"client_id":"678"}\''
    )


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (nats.errors.Error, JetStreamError) as error:
        print(f"error: NATS says {error}; see the server's log, and run it again", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    cli(prog_name="python -m control_plane")
