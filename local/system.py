"""Start the parts of the local system in order, and stop them in reverse."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
from nats.aio.client import Client

from control_plane import seed_flag
from control_plane.desired import EVERYTHING
from control_plane.files import Files
from control_plane.reconcile import reconcile
from control_plane.self_hosted import provider as self_hosted
from control_plane.self_hosted.provider import SelfHosted
from local.cpu import cpu_bound
from local.gateway.server import gateway
from local.process import Child, LocalError, claim_port, running
from local.servers import certificate
from local.servers.dynamodb import create_adjustments, create_table, dynamodb, environment
from local.servers.engine import engine as chosen_engine
from local.servers.engine import has_engine
from local.servers.nats_server import Mqtt, nats_server
from local.state import State
from service import HEALTH_PORT

TABLE: Final = "balances"
ADJUSTMENTS: Final = "adjustments"
ACCOUNT_NAME: Final = "POC"
MQTT_PORT: Final = 1883
MQTT_TLS_PORT: Final = 8883
"""https://www.iana.org/assignments/service-names-port-numbers (mqtt, secure-mqtt)"""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ports:
    """The port of each part; 0 picks a free one. The tasks' health pages are on `health` and the ports after it."""

    nats: int = 4222
    dynamodb: int = 8000
    gateway: int = 8222
    health: int = HEALTH_PORT


@dataclass(frozen=True)
class Listener:
    """Where devices connect."""

    port: int = MQTT_PORT
    tls: str = ""
    """This machine's name or address: TLS on all addresses, with a certificate for it. Empty: plain, on loopback."""

    def on(self, keys: Path) -> Mqtt:
        """Claim the port; make the certificate, in `keys`."""
        port = claim_port(self.port, "--mqtt-port")
        return Mqtt(port, "0.0.0.0", certificate.issue(keys, self.tls)) if self.tls else Mqtt(port)  # noqa: S104


@dataclass(frozen=True)
class Task:
    """A service process and the URL of its health page."""

    child: Child
    health_url: str
    again: Callable[[], AbstractAsyncContextManager[Task]]
    """Starts a task like it, on the same port."""
    is_bounded: bool = False
    """True if its CPU is limited."""


@dataclass
class System:
    """A running local system."""

    state: State
    account: str
    nats_url: str
    gateway_url: str
    gateway_tokens: Mapping[str, str] = field(repr=False)
    """User -> token."""
    creds: Mapping[str, str] = field(repr=False)
    dynamodb_env: Mapping[str, str] = field(repr=False)
    nats: Child
    dynamodb: Child
    tasks: list[Task] = field(default_factory=list)
    queue_listen: str = ""
    """Address of its queue sidecar; empty if it has none."""
    mqtt: Mqtt | None = None
    """Where it takes devices; None: nowhere."""
    mqtt_host: str = "127.0.0.1"
    """The name or address by which devices reach it."""
    devices_listen: str = ""
    """Address of the gRPC API of the role devices; empty if it does not run."""

    def administrator(self) -> AbstractAsyncContextManager[Client]:
        """Connect with every permission in the account."""
        return self_hosted.connected(self.nats_url, self_hosted.administrator_of(self.state.operator(), self.account))

    @property
    def logs(self) -> Path:
        return self.state.folder / "logs"

    @property
    def children(self) -> list[Child]:
        return [self.nats, self.dynamodb, *(task.child for task in self.tasks)]


@asynccontextmanager
async def local_system(
    folder: Path,
    ports: Ports,
    *,
    tasks: int,
    vcpu: float | None = None,
    devices: Listener | None = None,
    say: Say = lambda _: None,
) -> AsyncIterator[System]:
    """Run and provision everything, with `tasks` ready service processes, each limited to `vcpu`.

    `devices` is where devices connect; None: nowhere. Raises `LocalError` or `ProvisioningError` when a part does not
    start; the others are then stopped.
    """
    state = State(folder)
    _check_distinct(ports, tasks, devices)
    async with AsyncExitStack() as stack:
        stack.enter_context(state.held())
        for path in state.tighten():
            say(f"{path} was readable by others; it is private now")
        nats_port = claim_port(ports.nats, "--nats-port")
        dynamodb_port = claim_port(ports.dynamodb, "--dynamodb-port")
        gateway_port = claim_port(ports.gateway, "--gateway-port")
        mqtt = devices.on(folder / "keys") if devices else None
        nats = await stack.enter_async_context(
            nats_server(folder / "nats", nats_port, operator=state.operator(), system=state.system(), mqtt=mqtt)
        )
        nats_url = f"nats://127.0.0.1:{nats_port}"
        say(f"nats-server on {nats_url}" + (f", MQTT on {mqtt.host}:{mqtt.port}" if mqtt else ""))
        engine = await stack.enter_async_context(dynamodb(folder / "dynamodb", dynamodb_port))
        dynamodb_env = environment(dynamodb_port)
        made = await create_table(TABLE, dynamodb_env)
        await create_adjustments(ADJUSTMENTS, dynamodb_env)
        say(f"DynamoDB engine on {dynamodb_env['AWS_ENDPOINT_URL_DYNAMODB']}, tables {TABLE} and {ADJUSTMENTS}")
        if instead := chosen_engine().instead:
            say(instead)
        account = await provision(nats_url, state, state.files)
        creds = {user.name: state.files.creds(user.name) or "" for user in EVERYTHING.users if not user.devices}
        if made and await seed_flag.clear(nats_url, creds["service"]):
            say("the table was gone and the seed flag set; the flag is cleared, the first task seeds again")
        say(f"account {ACCOUNT_NAME}, users {', '.join(creds)}, stream, bucket")
        tokens = {user.name: state.gateway_token(user.name) for user in EVERYTHING.users if user.gateway}
        acts_as = {token: creds[user] for user, token in tokens.items()}
        await stack.enter_async_context(gateway(gateway_port, nats_url, acts_as))
        gateway_url = f"http://127.0.0.1:{gateway_port}"
        say(f"HTTP gateway on {gateway_url}")
        system = System(state, account, nats_url, gateway_url, tokens, creds, dynamodb_env, nats, engine, mqtt=mqtt)
        if devices and devices.tls:
            system.mqtt_host = devices.tls
        env = service_env(nats_url, creds["service"], TABLE, dynamodb_env, adjustments=ADJUSTMENTS)
        for number in range(1, tasks + 1):
            port = claim_port(ports.health + number - 1 if ports.health else 0, "--health-port")
            log = folder / "logs" / f"service-{number}.log"
            task = await stack.enter_async_context(service_task(f"service-{number}", env, port, log, vcpu=vcpu))
            system.tasks.append(task)
            if not has_engine():
                await ready(task)  # moto is too slow for seeding while other tasks start
        await asyncio.gather(*(ready(task) for task in system.tasks))
        if tasks:
            say(f"service: {tasks} task{'s' if tasks > 1 else ''} ready")
        if vcpu and not all(task.is_bounded for task in system.tasks):
            say(f"the tasks are not limited to {vcpu:g} vCPU: that requires root and a writable cgroup")
        yield system


def _check_distinct(ports: Ports, tasks: int, devices: Listener | None) -> None:
    health = {f"health page of task {number + 1}": ports.health + number for number in range(tasks) if ports.health}
    given = {"--nats-port": ports.nats, "--dynamodb-port": ports.dynamodb, "--gateway-port": ports.gateway, **health}
    if devices:
        given["--mqtt-port"] = devices.port
    names: dict[int, str] = {}
    for name, port in given.items():
        if port and port in names:
            raise LocalError(f"port {port} is given twice ({names[port]}, {name}); give another, or 0 for any free one")
        names[port] = name


async def provision(nats_url: str, state: State, files: Files, name: str = ACCOUNT_NAME) -> str:
    """Provision account, users, stream and bucket as declared, credentials into `files`; return the account's id."""
    operator, creds = state.operator(), state.system_creds()
    async with self_hosted.connected(nats_url, creds) as system:
        provider = SelfHosted(nats_url, system, operator, state.system().public)
        planned = await reconcile.plan(provider, name, EVERYTHING, files)
        async for _ in reconcile.apply(provider, planned):
            pass
        account = await reconcile.find(provider, name)
    if account is None:
        raise LocalError(f"account {name} was made and is gone; see the log of nats-server")
    return account.id


def service_env(
    nats_url: str, creds: str | None, table: str, dynamodb_env: Mapping[str, str], *, adjustments: str = ""
) -> dict[str, str]:
    """Return the complete environment of a role, as its container would get it; the tables are those of `customer`."""
    env = {"PATH": os.environ.get("PATH", ""), "NATS_URL": nats_url, **dynamodb_env}
    if table:
        env["DDB_TABLE"] = table
    if adjustments:
        env["ADJUSTMENTS_TABLE"] = adjustments
    if creds is not None:
        env["NATS_CREDENTIALS"] = base64.b64encode(creds.encode()).decode()
    return env


@asynccontextmanager
async def service_task(
    name: str,
    env: Mapping[str, str],
    health_port: int,
    log: Path,
    module: str = "service",
    role: str | None = None,
    vcpu: float | None = None,
) -> AsyncIterator[Task]:
    """Run a role of the service as its container would, or another `module` in its place.

    Its CPU is limited to `vcpu`, where this system can.
    """
    given = {"HEALTH_HOST": "127.0.0.1", **env, "HEALTH_PORT": str(health_port)}
    command = [sys.executable, "-m", module, *([role] if role else [])]
    with cpu_bound(vcpu) if vcpu else nullcontext() as bound:
        async with running(name, command, log, given) as child:
            if bound:
                bound(child.pid)
            again = partial(service_task, name, env, health_port, log, module, role, vcpu)
            yield Task(child, f"http://127.0.0.1:{health_port}", again, is_bounded=bound is not None)


async def ready(task: Task) -> None:
    """Wait until the task's /readyz says that it is ready."""

    async def asked() -> bool:
        try:
            async with http.get(f"{task.health_url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async with aiohttp.ClientSession() as http:
        await task.child.until(asked)


async def first_to_end(children: list[Child]) -> LocalError:
    """Wait until a child ends by itself; return the error that names it."""
    waiting = {asyncio.create_task(child.wait()): child for child in children}
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        child = waiting[done.pop()]
        return LocalError(f"{child.name} ended with {child.process.returncode}: {child.last_words()}")
    finally:
        for task in waiting:
            task.cancel()
