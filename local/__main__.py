"""`python -m local`: up, demo, demo-archive, demo-queue, demo-devices, device, reset."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from control_plane.errors import ProvisioningError
from local import device
from local.keeper import keep
from local.next_steps import next_steps
from local.process import LocalError, kill_children
from local.roles import devices_role, sidecar, stream_env
from local.servers.ports import check_free
from local.state import DEFAULT, State
from local.system import (
    ADJUSTMENTS,
    MQTT_PORT,
    MQTT_TLS_PORT,
    TABLE,
    Listener,
    Ports,
    System,
    local_system,
    service_env,
)
from service.contracts import devices as devices_contract
from service.contracts import queue as queue_contract
from service.runtime.cancel import cancel

cli = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
QUEUE_PORT: Final = int(queue_contract.LISTEN.rpartition(":")[2])
PULSE_S: Final = 10
DEVICES_PORT: Final = int(devices_contract.LISTEN.rpartition(":")[2])
console = Console(highlight=False, soft_wrap=True, emoji=False)

Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")]
StateOption = Annotated[Path, typer.Option(resolve_path=True, help="Folder for keys, credentials, stores and logs.")]


@cli.command()
def up(
    tasks: Annotated[int, typer.Option(min=0, max=32, help="Service processes.")] = 1,
    vcpu: Annotated[float | None, typer.Option(min=0.05, help="Limit each task's CPU, as Fargate does.")] = None,
    autoscale: Annotated[
        bool, typer.Option("--autoscale", help="Scale tasks by the rules of deploy/settings.toml.")
    ] = False,
    speed: Annotated[
        float, typer.Option(min=1, max=100, help="With --autoscale: factor by which time runs faster.")
    ] = 1,
    state: StateOption = DEFAULT,
    nats_port: Port = Ports.nats,
    dynamodb_port: Port = Ports.dynamodb,
    gateway_port: Port = Ports.gateway,
    health_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="First task's port; the others use the next ports. 0: any free ports."),
    ] = Ports.health,
    archive: Annotated[bool, typer.Option("--archive", help="Start archive tasks by the backlog, from zero.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Start a queue sidecar of the stream.")] = False,
    queue_port: Annotated[
        int, typer.Option(min=0, max=65535, help="With --queue: the sidecar's port. 0: any free port.")
    ] = QUEUE_PORT,
    devices: Annotated[
        bool, typer.Option("--devices", help="Take devices over MQTT, and run the role that stores their readings.")
    ] = False,
    devices_port: Annotated[
        int, typer.Option(min=0, max=65535, help="With --devices: the port of the gRPC API. 0: any free port.")
    ] = DEVICES_PORT,
    mqtt_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="With --devices: 1883, or 8883 with --mqtt-tls. 0: any free port."),
    ] = None,
    mqtt_tls: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            help="With --devices: TLS on all addresses of this machine, with a certificate for HOST, its name or "
            "address. Without: no TLS, on loopback.",
        ),
    ] = "",
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Any free port for each part.")] = False,
) -> None:
    """Run the whole system until Ctrl-C. Its state is kept for the next start."""
    ports = Ports(0, 0, 0, 0) if free_ports else Ports(nats_port, dynamodb_port, gateway_port, health_port)
    port = 0 if free_ports else (MQTT_TLS_PORT if mqtt_tls else MQTT_PORT) if mqtt_port is None else mqtt_port
    extras = Extras(
        archive=archive,
        queue_port=(0 if free_ports else queue_port) if queue else None,
        devices_port=(0 if free_ports else devices_port) if devices else None,
        listener=Listener(port, mqtt_tls) if devices else None,
    )
    _check_free(ports, extras, 0 if autoscale else tasks)
    if autoscale:
        _run(_up_autoscaled(state, ports, vcpu, speed, extras))
    else:
        _run(_up(state, ports, tasks, vcpu, extras))


@cli.command()
def demo() -> None:
    """Run the main job on real servers with three tasks: show it, check it, clean up."""
    from local.demos import balance as demonstration  # noqa: PLC0415  each demo imports more than `up` needs

    _run(demonstration.run(console))


@cli.command("demo-archive")
def demo_archive() -> None:
    """Let events pile up, then archive them with tasks started from zero, from JetStream and from SQS; check it."""
    from local.demos import archive as archive_demo  # noqa: PLC0415

    _run(archive_demo.run(console))


@cli.command("demo-queue")
def demo_queue() -> None:
    """Show two queue sidecars and an example client, on a stream and on an SQS queue."""
    from local.demos import queue as queue_demo  # noqa: PLC0415

    _run(queue_demo.run(console))


@cli.command("demo-devices")
def demo_devices() -> None:
    """Show devices over MQTT: their readings as rows, outages as posts, and a broker and a role that are killed."""
    from local.demos import devices as devices_demo  # noqa: PLC0415

    _run(devices_demo.run(console))


@cli.command("device")
def add_device(
    name: Annotated[str, typer.Argument(help="Its name, which is its id.")], state: StateOption = DEFAULT
) -> None:
    """Let a device connect to the system that `up --devices` runs; print how it publishes."""
    _run(_add_device(State(state), name))


@cli.command()
def reset(state: StateOption = DEFAULT) -> None:
    """Delete the local system's state: keys, credentials, table, stream, logs."""
    if not state.exists():
        console.print(f"nothing to reset: {state} does not exist")
        return
    try:
        with State(state).held():
            State(state).remove()
    except (LocalError, OSError) as error:
        _fail(f"{_problem(error)}; nothing was deleted" if isinstance(error, LocalError) else _problem(error))
    console.print(f"deleted {state}" if not state.exists() else f"deleted this system's parts of {state}")


@dataclass(frozen=True)
class Extras:
    """The optional roles that `up` starts."""

    archive: bool
    queue_port: int | None
    """Port of the queue sidecar; None: do not start one."""
    devices_port: int | None
    """Port of the gRPC API of the role devices; None: do not start it."""
    listener: Listener | None
    """Where devices connect; None: nowhere."""

    @asynccontextmanager
    async def running(self, system: System) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self.queue_port is not None:
                running = sidecar(stream_env(system), system.logs, self.queue_port)
                task, system.queue_listen = await stack.enter_async_context(running)
                system.tasks.append(task)
                _say(f"queue sidecar on {system.queue_listen}")
            if self.devices_port is not None:
                role = devices_role(system, system.logs, {"PULSE": str(PULSE_S)}, self.devices_port)
                task, system.devices_listen = await stack.enter_async_context(role)
                system.tasks.append(task)
                stack.enter_context(device.announced(system))
                _say(f"role devices, gRPC on {system.devices_listen}")
            console.print(next_steps(system, archive=self.archive))
            if self.archive:
                from local.demos import archive as archive_demo  # noqa: PLC0415

                await stack.enter_async_context(archive_demo.supervised(system, _say))
            yield


async def _add_device(state: State, name: str) -> None:
    broker = device.announcement(state)
    files = await device.add(state, broker.nats_url, [name])
    console.print(device.recipe(broker, name, files[name]))


def _check_free(ports: Ports, extras: Extras, tasks: int) -> None:
    given = {"--nats-port": ports.nats, "--dynamodb-port": ports.dynamodb, "--gateway-port": ports.gateway}
    health = {f"--health-port + {number}": ports.health + number for number in range(tasks) if ports.health}
    try:
        of_roles = {"--queue-port": extras.queue_port or 0, "--devices-port": extras.devices_port or 0}
        mqtt = {"--mqtt-port": extras.listener.port} if extras.listener else {}
        check_free({**given, **health, **of_roles, **mqtt})
    except LocalError as error:
        _fail(str(error))


def _say(line: str) -> None:
    console.print(f"[green]ready[/]  {line}")


async def _up(folder: Path, ports: Ports, tasks: int, vcpu: float | None, extras: Extras) -> None:
    async with (
        local_system(folder, ports, tasks=tasks, vcpu=vcpu, devices=extras.listener, say=_say) as system,
        extras.running(system),
    ):
        raise await keep(system, console.print)


async def _up_autoscaled(folder: Path, ports: Ports, vcpu: float | None, speed: float, extras: Extras) -> None:
    from local.scaling.autoscale import Autoscaler  # noqa: PLC0415
    from local.scaling.target_tracking import Rules  # noqa: PLC0415

    rules = Rules.deployed()
    if vcpu:
        rules = replace(rules, vcpu=vcpu)
    async with AsyncExitStack() as stack:
        running = local_system(folder, ports, tasks=0, devices=extras.listener, say=_say)
        system = await stack.enter_async_context(running)
        await stack.enter_async_context(extras.running(system))
        env = service_env(system.nats_url, system.creds["service"], TABLE, system.dynamodb_env, adjustments=ADJUSTMENTS)
        scaler = Autoscaler(rules, env, system.logs, speed=speed, say=console.print)
        scaling = asyncio.create_task(scaler.run())
        ending = asyncio.create_task(keep(system, console.print))
        try:
            await asyncio.wait({scaling, ending}, return_when=asyncio.FIRST_COMPLETED)
            if scaling.done():
                await scaling
            raise await ending
        finally:
            scaling.cancel()  # only once: it then stops its tasks, which a second one would interrupt
            await asyncio.wait({scaling})
            await cancel(ending)


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(_until_signal(work))
    except (LocalError, ProvisioningError, OSError) as error:
        _fail(_problem(error))
    except KeyboardInterrupt:
        console.print("stopped")


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`. A signal cancels it, so that it stops what it started; a second signal kills the children."""
    task = asyncio.ensure_future(work)
    signalled = False

    def on_signal() -> None:
        nonlocal signalled
        if signalled:
            kill_children()
        else:
            task.cancel()
        signalled = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    if task.cancelled():
        with contextlib.suppress(OSError):  # the terminal was closed
            console.print("stopped")


def _problem(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'this system'}: {error.strerror}"
    return str(error)


def _fail(problem: str) -> None:
    print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(1)


if __name__ == "__main__":
    cli(prog_name="python -m local")
