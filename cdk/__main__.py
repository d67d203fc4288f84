"""`python -m cdk`: bootstrap, synth, diff, deploy, destroy."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import boto3
import nats.errors
import typer
from botocore.exceptions import BotoCoreError, ClientError
from nats.js.errors import Error as JetStreamError
from rich.console import Console

from cdk import settings as settings_module
from cdk.settings import Settings
from cdk.stack import SECRET_PARAMETER
from control_plane import aws, seed_flag, self_hosted
from control_plane.desired import CLIENT, SERVICE
from control_plane.discovery import instances
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.target import CONFIG, PREFIX, account_files
from service.customer import contract

FOLDER: Final = Path(__file__).parent
CLI: Final = FOLDER / "node_modules" / ".bin" / "cdk"
ROLL_OUT_S: Final = 600.0
POLL_S: Final = 1.0

cli = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True, emoji=False)
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@cli.command()
def bootstrap() -> None:
    """Prepare the account and region for the CDK, once."""
    _run(lambda settings: _cdk(["bootstrap", f"aws://{_identity(settings)}/{settings.region}"], settings))


@cli.command()
def synth() -> None:
    """Make the template in cdk/cdk.out, checked by cdk-nag; without an AWS account, if region and initials are set."""
    _run(lambda settings: _cdk(["synth", "--quiet"], settings))


@cli.command()
def diff() -> None:
    """Show what a deployment would change."""
    _run(lambda settings: _cdk(["diff", "--method=template"], settings))


@cli.command()
def deploy() -> None:
    """Check, push the secret, deploy, and wait until as many tasks answer as were asked for."""

    def work(settings: Settings) -> None:
        _check_docker()
        console.print(f"[green]ok[/]  AWS account {_identity(settings)}, region {settings.region}")
        arn = _push_secret(settings)
        console.print(f"[green]ok[/]  secret {arn}")
        parameter = f"{SECRET_PARAMETER}={arn}"
        _cdk(["deploy", "--require-approval", "never", "--parameters", parameter], settings)
        _ask_tasks(settings)

    _run(work)


@cli.command()
def destroy(*, yes: Yes = False) -> None:
    """Destroy the stack, delete the secret, clear the seed flag: the next deployment seeds again."""

    def work(settings: Settings) -> None:
        kept = settings.environment == "production"
        table = "is kept" if kept else "goes, with every balance in it"
        console.print(f"stack {settings.stack_name} and its secret go; table {settings.table_name} {table}")
        if not yes and input(f"type {settings.stack_name} to go on: ").strip() != settings.stack_name:
            raise ProvisioningError("that is not its name; nothing was destroyed")
        _cdk(["destroy", "--force"], settings)
        gone = aws.delete_secret(settings.initials)
        console.print(f"secret {aws.secret_name(settings.initials)}: {'deleted' if gone else 'was not there'}")
        creds = _files(settings).creds_anywhere(SERVICE.name)
        if kept or creds is None:
            console.print(
                "seed flag: left as it is"
                + ("" if kept else f", there are no credentials in {_files(settings).folder}")
            )
        else:
            cleared = asyncio.run(seed_flag.clear(settings.nats_url, creds))
            console.print(f"seed flag: {'cleared' if cleared else 'was not set'}")

    _run(work)


def _files(settings: Settings) -> Files:
    """The credentials of the account that the control plane made for these initials."""
    return account_files(CONFIG, f"{PREFIX}{settings.initials}")


def _check_docker() -> None:
    docker = os.environ.get("CDK_DOCKER", "docker")
    if shutil.which(docker) is None:
        raise ProvisioningError("Docker is not installed; the image is built with it")
    if subprocess.run([docker, "info"], capture_output=True, check=False).returncode:  # noqa: S603
        raise ProvisioningError("Docker does not answer; start it, the image is built with it")
    console.print("[green]ok[/]  Docker")


def _identity(settings: Settings) -> str:
    """The AWS account that the deployment goes to."""
    try:
        identity = boto3.Session(region_name=settings.region).client("sts").get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        raise ProvisioningError(f"AWS does not know you ({error}); sign in, for example `aws sso login`") from None
    return str(identity["Account"])


def _push_secret(settings: Settings) -> str:
    """The secret's complete ARN: pushed from the credentials here, or as it is there already."""
    creds = _files(settings).creds_anywhere(SERVICE.name)
    if creds is not None:
        return aws.push_secret(settings.initials, creds)
    arn = aws.secret_arn(settings.initials)
    if arn is None:
        path = _files(settings).creds_path(SERVICE.name)
        raise ProvisioningError(f"there is neither {path} nor a secret; run `make cp-create` first")
    return arn


def _cdk(arguments: Sequence[str], settings: Settings) -> None:
    if not CLI.exists():
        raise ProvisioningError("the CDK CLI is not installed; run `make setup`")
    env = {**os.environ, "AWS_REGION": settings.region, "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20"}
    done = subprocess.run([str(CLI), *arguments], cwd=FOLDER, env=env, check=False)  # noqa: S603
    if done.returncode:
        raise ProvisioningError(f"cdk {arguments[0]} ended with {done.returncode}; what it says is above")


def _ask_tasks(settings: Settings) -> None:
    creds = _files(settings).creds_anywhere(CLIENT.name)
    if creds is None:
        console.print(f"not asked whether the tasks answer: there is no {_files(settings).creds_path(CLIENT.name)}")
        return
    with console.status(f"waiting for {settings.tasks} tasks to answer $SRV.PING"):
        asyncio.run(tasks_answer(settings.nats_url, creds, settings.tasks))
    console.print(f"[green]ok[/]  {settings.tasks} tasks answer")


async def tasks_answer(nats_url: str, creds: str, wanted: int, *, within_s: float = ROLL_OUT_S) -> None:
    """Return when `wanted` tasks answer `$SRV.PING`; raises `ProvisioningError` when they do not `within_s` seconds."""
    answering = 0
    async with self_hosted.connected(nats_url, creds) as client:
        try:
            async with asyncio.timeout(within_s):
                while (answering := len(await instances(client, contract.SERVICE_NAME, "PING"))) < wanted:
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise ProvisioningError(
                f"{answering} of {wanted} tasks answer after {within_s:g} seconds; the service's log says why"
            ) from None


def _run(work: Any) -> None:
    try:
        work(settings_module.load())
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (nats.errors.Error, JetStreamError) as error:
        print(f"error: NATS says {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    cli(prog_name="python -m cdk")
