"""`secret push|delete` and `seed-flag clear`: commands for what a deployment shares with the NATS account."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Annotated

import typer

from control_plane import aws, seed_flag
from control_plane.cli.command import NATS_URL, AsJson, asynchronous, console, files_of, found_account, initials_in
from control_plane.desired import SERVICE
from control_plane.reconcile import rotation
from control_plane.target import Target, account_name, open_provider, service_creds

secret_cli = typer.Typer(help="The service's credentials in AWS Secrets Manager.", no_args_is_help=True)
seed_cli = typer.Typer(help="The flag that marks the table as seeded.", no_args_is_help=True)


@secret_cli.command("push")
@asynchronous
async def secret_push(target: Target, *, as_json: AsJson = False) -> None:
    """Put the service's credentials, in base64, into <initials>/NATSCreds: create or replace it.

    This also finishes an interrupted rotation, which revokes the old credentials.
    """
    name = account_name(target.initials)
    initials, files = initials_in(name), files_of(target)
    if files.rotation(SERVICE.name):
        async with open_provider(target) as provider:
            account, files = await found_account(provider, target)
            async for line in rotation.rotate(provider, account.id, SERVICE, files, initials):
                print(line, file=sys.stderr)
        arn: str | None = await asyncio.to_thread(aws.secret_arn, initials)
    else:
        arn = await asyncio.to_thread(aws.push_secret, initials, service_creds(files))
    print(json.dumps({"name": aws.secret_name(initials), "arn": arn}) if as_json else f"pushed {arn}")


@secret_cli.command("delete")
@asynchronous
async def secret_delete(target: Target) -> None:
    """Delete <initials>/NATSCreds at once."""
    initials = initials_in(account_name(target.initials))
    name = aws.secret_name(initials)
    there = await asyncio.to_thread(aws.delete_secret, initials)
    console.print(f"deleted {name}" if there else f"nothing to do: there is no secret {name}")


@seed_cli.command("clear")
@asynchronous
async def seed_flag_clear(
    target: Target,
    *,
    nats_url: Annotated[
        str | None,
        typer.Option(envvar="NATS_URL", help=f"Server of the service's account; default: --server, else {NATS_URL}."),
    ] = None,
) -> None:
    """Remove the flag, so that the next task to start seeds again. Existing rows are never overwritten."""
    url = nats_url or target.server or NATS_URL
    cleared = await seed_flag.clear(url, service_creds(files_of(target)))
    console.print("cleared: the next task to start seeds" if cleared else "nothing to do: the flag is not set")
