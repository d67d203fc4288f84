"""`python -m cdk`: bootstrap, synth, cost, diff, deploy, destroy."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import nats.errors
import typer
from botocore.exceptions import BotoCoreError, ClientError
from nats.js.errors import Error as JetStreamError
from rich.console import Console

from cdk import checks, deployed, deployment
from cdk.deployed import Unreadable
from cdk.parameters import SECRET_PARAMETERS, users
from control_plane import aws, seed_flag
from control_plane.desired import CLIENT, SERVICE
from control_plane.errors import ProvisioningError
from control_plane.files import Files
from control_plane.self_hosted import provider as self_hosted
from control_plane.target import CONFIG, PREFIX, account_files
from deploy.settings import Settings
from service.contracts import customer as contract
from service.nats.discovery import instances

FOLDER: Final = Path(__file__).parent
CLI: Final = FOLDER / "node_modules" / ".bin" / "cdk"
ROLL_OUT_S: Final = 600.0
SILENT: Final = {"JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20"}
POLL_S: Final = 1.0

cli = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True, emoji=False)
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@cli.command()
def bootstrap() -> None:
    """Prepare the account and region for the CDK, once."""
    _run(lambda settings: _cdk(["bootstrap", f"aws://{checks.account(settings)}/{settings.region}"], settings))


@cli.command()
def synth() -> None:
    """Write the template to cdk/cdk.out, checked by cdk-nag; needs no AWS account."""

    def work(settings: Settings) -> None:
        _cdk(["synth", "--quiet"], settings)
        console.print(f"[green]ok[/]  cdk/cdk.out/{settings.stack_name}.template.json")

    _run_with(_load_for_synth, work)


@cli.command()
def cost() -> None:
    """Print what a month costs, item by item, for the proof of concept and for production; needs no AWS account."""
    os.environ.update(SILENT)
    from cdk.cost import show as cost_table  # noqa: PLC0415  it starts Node, which no other command needs in this process

    try:
        cost_table.show()
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@cli.command()
def diff() -> None:
    """Show what a deployment would change."""

    def work(settings: Settings) -> None:
        checks.account(settings)
        _cdk(["diff", "--method=template"], settings)

    _run(work)


@cli.command()
def deploy(
    *,
    replace_secret: Annotated[
        bool,
        typer.Option("--replace-secret", help="Put the credentials of this machine into the secret that is there."),
    ] = False,
) -> None:
    """Check, push a missing secret, deploy, and wait until all tasks that ECS should run answer."""

    def work(settings: Settings) -> None:
        checks.docker(settings)
        console.print("[green]ok[/]  Docker")
        console.print(f"[green]ok[/]  AWS account {checks.account(settings)}, region {settings.region}")
        checks.zones(settings)
        checks.tables(settings)
        checks.queues(settings)
        checks.secrets(settings)
        first = deployed.first(settings)
        arns = {
            SECRET_PARAMETERS[user]: _secret(settings, replace=replace_secret, user=user) for user in users(settings)
        }
        _warn(settings)
        _deploy(settings, arns, first=first)
        if any(first.values()):
            # The stack keeps these parameters, so a later deployment without this command uses them.
            console.print("now that it stands: the tables' protection, and the number of tasks as autoscaling has it")
            _deploy(settings, arns, first=dict.fromkeys(first, False))
        _ask_tasks(settings)

    _run(work)


@cli.command()
def destroy(*, yes: Yes = False) -> None:
    """Destroy the stack, delete its secrets and, unless the table is kept, clear the seed flag."""

    def work(settings: Settings) -> None:
        console.print(f"AWS account {checks.account(settings)}, region {settings.region}")
        keeps = settings.environment == "production"
        kept = keeps or bool(settings.existing_table)
        console.print(f"stack {settings.stack_name} and its secrets go")
        for table in settings.tables:
            fate = "is kept" if keeps or table.exists else f"goes, with every {table.row} in it"
            console.print(f"table {table.name} {fate}")
        if settings.makes_queues:
            queues = "are kept" if keeps else "go, with every message in them"
            console.print(f"the SQS queues that the stack made {queues}")
        if not yes and input(f"type {settings.stack_name} to go on: ").strip() != settings.stack_name:
            raise ProvisioningError("that is not its name; nothing was destroyed")
        images = deployed.images(settings)
        _cdk(["destroy", "--force"], settings)
        gone = aws.delete_secret(settings.initials)
        console.print(f"secret {aws.secret_name(settings.initials)}: {'deleted' if gone else 'was not there'}")
        for user in SECRET_PARAMETERS:
            if user and aws.delete_secret(settings.initials, user):
                console.print(f"secret {aws.secret_name(settings.initials, user)}: deleted")
        for image in images:
            console.print(
                f"image {image} stays in ECR, like those of earlier deployments; if no other stack of the account runs "
                "it: " + deployed.deletion(settings, image)
            )
        creds = _files(settings).creds_anywhere(SERVICE.name)
        if kept:
            console.print("seed flag: left as it is")
            console.print(f'to deploy with this table again: existing_table = "{settings.table_name}"', markup=False)
        elif creds is None:
            console.print(f"seed flag: left as it is, there are no credentials in {_files(settings).folder}")
        else:
            cleared = asyncio.run(seed_flag.clear(settings.nats_url, creds))
            console.print(f"seed flag: {'cleared' if cleared else 'was not set'}")

    _run(work)


def _files(settings: Settings) -> Files:
    """Return the credentials of the account named by the deployment's initials."""
    return account_files(CONFIG, f"{PREFIX}{settings.initials}")


def _secret(settings: Settings, *, replace: bool, user: str = "") -> str:
    """Return the complete ARN of the secret: the existing one, or a new one with local credentials, if they connect.

    `user`: the user of another role; empty for the service's own.
    """
    arn = aws.secret_arn(settings.initials, user)
    name = aws.secret_name(settings.initials, user)
    if arn and not replace:
        console.print(f"[green]ok[/]  secret {name} is there and left as it is (--replace-secret replaces it)")
        return arn
    creds = _files(settings).creds_anywhere(user or SERVICE.name)
    if creds is None:
        path = _files(settings).creds_path(user or SERVICE.name)
        command = f'make cp-create ARGS="--with {user}"' if user else "make cp-create"
        raise ProvisioningError(f"there is neither {path} nor a secret; run `{command}` first")
    asyncio.run(_connect(settings, creds))
    pushed = aws.push_secret(settings.initials, creds, user)
    console.print(f"[green]ok[/]  secret {name} {'replaced' if arn else 'made'}; its credentials connect")
    return pushed


async def _connect(settings: Settings, creds: str) -> None:
    try:
        async with self_hosted.connected(settings.nats_servers, creds):
            pass
    except ProvisioningError as error:
        raise ProvisioningError(
            f"the credentials in {_files(settings).folder} do not connect and are not made a secret ({error}); run "
            "`make cp-create`, or `python -m control_plane secret push` where only the tasks reach NATS"
        ) from None


def _deploy(settings: Settings, arns: Mapping[str, str], *, first: Mapping[str, bool]) -> None:
    parameters = {**arns, **{name: "yes" if is_first else "no" for name, is_first in first.items()}}
    given = [part for name, value in parameters.items() for part in ("--parameters", f"{name}={value}")]
    _cdk(["deploy", "--require-approval", "never", *given], settings)


def _load_for_synth() -> Settings:
    settings, assumed = deployment.load_or_assume()
    try:
        checks.account(settings)
        checks.zones(settings)
        if "sqs" in {reader.source for reader in (settings.archive, settings.queue) if reader.enabled}:
            checks.queues(settings)
    except (checks.NoAccount, Unreadable):
        console.print("[yellow]note[/]  AWS does not say what the account has; `make deploy` checks zones and queues")
    for name in assumed:
        console.print(
            f"[yellow]note[/]  {name} is not set and AWS is not configured: {getattr(settings, name)} is assumed"
        )
    _warn(settings)
    return settings


def _warn(settings: Settings) -> None:
    if not settings.alert_email:
        console.print("[yellow]note[/]  alert_email is empty: alarms notify nobody")
    if settings.devices.enabled and any("ngs.global" in server for server in settings.nats_servers):
        console.print(
            "[yellow]note[/]  devices is enabled, and nats_url is Synadia Cloud, which documents no MQTT: name "
            "nats-servers of your own (deploy/nats)"
        )


def _cdk(arguments: Sequence[str], settings: Settings) -> None:
    if not CLI.exists():
        raise ProvisioningError("the CDK CLI is not installed; run `make setup`")
    env = {
        **os.environ,
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        "INITIALS": settings.initials,
        **SILENT,
    }
    done = subprocess.run([str(CLI), *arguments], cwd=FOLDER, env=env, check=False)  # noqa: S603
    if done.returncode:
        raise ProvisioningError(f"cdk {arguments[0]} ended with {done.returncode}; what it says is above")


def _ask_tasks(settings: Settings) -> None:
    creds = _files(settings).creds_anywhere(CLIENT.name)
    if creds is None:
        console.print(f"not asked whether the tasks answer: there is no {_files(settings).creds_path(CLIENT.name)}")
        return
    with console.status("waiting for the tasks to answer $SRV.PING"):
        wanted = asyncio.run(
            tasks_answer(settings.nats_servers, creds, lambda: deployed.desired_tasks(settings), within_s=ROLL_OUT_S)
        )
    console.print(f"[green]ok[/]  {wanted} tasks answer")


async def tasks_answer(nats_servers: Sequence[str], creds: str, wanted: Callable[[], int], *, within_s: float) -> int:
    """Wait until as many tasks answer `$SRV.PING` as are wanted; autoscaling may change that number meanwhile.

    Return the number. Raises `ProvisioningError` if they do not answer within `within_s` seconds.
    """
    answering, asked_for = 0, wanted()
    async with self_hosted.connected(nats_servers, creds) as client:
        try:
            async with asyncio.timeout(within_s):
                while (answering := len(await instances(client, contract.SERVICE_NAME, "PING"))) < asked_for:
                    await asyncio.sleep(POLL_S)
                    asked_for = await asyncio.to_thread(wanted)
        except TimeoutError:
            raise ProvisioningError(
                f"{answering} of {asked_for} tasks answer after {within_s:g} seconds; the service's log says why"
            ) from None
    return asked_for


def _run(work: Callable[[Settings], None]) -> None:
    _run_with(deployment.load, work)


def _run_with(load: Callable[[], Settings], work: Callable[[Settings], None]) -> None:
    try:
        work(load())
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (nats.errors.Error, JetStreamError) as error:
        print(f"error: NATS says {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except (BotoCoreError, ClientError) as error:
        print(f"error: AWS says {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    cli(prog_name="python -m cdk")
