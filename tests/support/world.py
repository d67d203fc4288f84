"""An account and a table for one test, on servers that the session started."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from nats.aio.client import Client, RawCredentials
from nats.js import JetStreamContext

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ACCOUNT, ADMINISTRATOR, EVERYTHING
from control_plane.parts import ARCHIVE, QUEUE
from control_plane.resources import Account
from control_plane.self_hosted import provider as self_hosted
from local.process import claim_port
from local.servers import dynamodb
from local.servers.nats_server import Mqtt, nats_server
from local.system import Task, ready, service_env, service_task
from service.contracts import customer as contract
from service.contracts.stream import STREAM
from service.nats.client import NatsClient
from service.runtime.cancel import cancel
from tests.support.nats.declared import ensure

DRILL_S: Final = 7_200
BALANCES: Final = ACCOUNT.plus((ARCHIVE, QUEUE))
"""What a world has: devices' six streams take longer than all else in it, so `make_devices` adds them."""


@dataclass(frozen=True)
class Servers:
    """The real nats-server and the real DynamoDB engine, shared by a session's tests."""

    nats_url: str
    operator: Key
    system: Key
    dynamodb_env: Mapping[str, str]
    mqtt_ports: Sequence[int] = ()
    """Where each nats-server takes devices, on loopback without TLS."""

    @property
    def replicas(self) -> int:
        return len(self.mqtt_ports) or 1

    @property
    def system_creds(self) -> str:
        return self_hosted.administrator_creds(self.system, self.system.public)


def one_authority() -> dict[str, str]:
    """Variables for a program that gets its own environment; `quick_starts` says why."""
    return {"SSL_CERT_FILE": os.environ["SSL_CERT_FILE"]}


@asynccontextmanager
async def start_servers(folder: Path) -> AsyncIterator[Servers]:
    operator, system = Key.operator(), Key.account()
    nats_port, dynamodb_port, mqtt = claim_port(0, ""), claim_port(0, ""), Mqtt(claim_port(0, ""))
    async with (
        nats_server(folder / "nats", nats_port, operator=operator, system=system, mqtt=mqtt),
        dynamodb.dynamodb(folder / "dynamodb", dynamodb_port),
    ):
        env = {**dynamodb.environment(dynamodb_port), **one_authority()}
        yield Servers(f"nats://127.0.0.1:{nats_port}", operator, system, env, [mqtt.port])


@dataclass(frozen=True)
class World:
    """One account with its stream and bucket, and one table."""

    servers: Servers
    account: Key
    table: str
    folder: Path
    vcpu: float | None = None
    """vCPUs of each task; None: no bound."""
    seed_rows: int = 20
    """Rows that a task adds on first start: 1,000 take the engine longer than most tests."""

    @property
    def nats_url(self) -> str:
        return self.servers.nats_url

    def at(self, nats_url: str) -> World:
        """Return the same world, seen from one of its servers."""
        return replace(self, servers=replace(self.servers, nats_url=nats_url))

    def seeded(self, rows: int) -> World:
        """Return the same world, to which a task adds that many rows."""
        return replace(self, seed_rows=rows)

    def bounded(self, vcpu: float) -> World:
        """Return the same world, with tasks bounded as Fargate bounds them."""
        return replace(self, vcpu=vcpu)

    def creds(self, user: str) -> str:
        wanted = ADMINISTRATOR if user == ADMINISTRATOR.name else EVERYTHING.user(user)
        return claims.mint_creds(wanted, self.account, account=self.account.public)

    @asynccontextmanager
    async def client(self, user: str = "client") -> AsyncIterator[Client]:
        """Open a connection that reconnects, as a program's would."""

        async def quiet(_: Exception) -> None:
            pass

        client = NatsClient(lambda _: None, lambda: None) if user != "client" else Client()
        await client.connect(
            self.nats_url.split(","),
            user_credentials=RawCredentials(self.creds(user)),
            inbox_prefix=contract.INBOX_PREFIX if user == "service" else "_INBOX",
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.02,  # type: ignore[arg-type]  # seconds, and any number of them
            error_cb=quiet,
        )
        try:
            yield client
        finally:
            await client.close()
            if client._reconnection_task:  # nats-py's own client may reconnect for ever
                await cancel(client._reconnection_task)

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[JetStreamContext]:
        """Connect as administrator, for longer than any drill: the control plane's credentials last five minutes."""
        creds = self_hosted.administrator_creds(self.account, self.account.public, expires_s=DRILL_S)
        async with self_hosted.connected(self.nats_url.split(","), creds) as client:
            yield client.jetstream()

    async def push(self, **account: Any) -> None:
        """Give the server the account's claims."""
        given = {"limits": EVERYTHING.limits, **account}
        token = claims.account_jwt("test", self.account.public, self.servers.operator, **given)
        async with self_hosted.connected(self.nats_url.split(","), self.servers.system_creds) as system:
            await self_hosted.push_account(system, token)

    def put_rows(self, balances: Mapping[str, int]) -> None:
        for client_id, balance in balances.items():
            self.put_item({"id": {"S": client_id}, "client_balance": {"N": str(balance)}})

    def put_item(self, item: Mapping[str, Any]) -> None:
        dynamodb.client(self.servers.dynamodb_env).put_item(TableName=self.table, Item=item)

    def rows(self) -> dict[str, int]:
        return dynamodb.rows(self.table, self.servers.dynamodb_env)

    @property
    def adjustments(self) -> str:
        """The table of adjustments, once `with_adjustments` has made it."""
        return f"{self.table}-adjustments"

    async def with_adjustments(self) -> dict[str, str]:
        """Make the table, and return the environment that a task needs for it."""
        await dynamodb.create_adjustments(self.adjustments, self.servers.dynamodb_env)
        return {"ADJUSTMENTS_TABLE": self.adjustments, "SEED_ROWS": "0"}

    def ledger(self) -> list[dict[str, Any]]:
        """Return every row of the table of adjustments."""
        rows = dynamodb.items(dynamodb.client(self.servers.dynamodb_env), self.adjustments)
        return [{name: next(iter(value.values())) for name, value in row.items()} for row in rows]

    def service_env(self, **overrides: str) -> dict[str, str]:
        env = service_env(self.nats_url, self.creds("service"), self.table, self.servers.dynamodb_env)
        own = {"LOG_FORMAT": "json", "SEED_ROWS": str(self.seed_rows), "SHUTDOWN_TIMEOUT": "10"}
        return {**env, **own, **overrides}

    @asynccontextmanager
    async def launch(self, *, health_port: int = 0, **env: str) -> AsyncIterator[Task]:
        """Start a service process without waiting for it; its health page is on a free port, unless one is given."""
        name = f"service-{uuid.uuid4().hex[:6]}"
        port, log = health_port or claim_port(0, ""), self.folder / f"{name}.log"
        async with service_task(name, self.service_env(**env), port, log, vcpu=self.vcpu) as task:
            yield task

    @asynccontextmanager
    async def task(self, **env: str) -> AsyncIterator[Task]:
        """Start a service process; yield it once it is ready."""
        async with self.launch(health_port=0, **env) as task:
            await ready(task)
            yield task

    async def run_to_end(self, *, health_port: int = 0, **env: str) -> tuple[int, str]:
        """Return exit code and output of a service that is expected to end by itself."""
        async with self.launch(health_port=health_port, **env) as task, asyncio.timeout(30):
            code = await task.child.wait()
            return code, task.child.log.read_text()

    async def last_sequence(self) -> int:
        """Return how many events were ever stored."""
        async with self.administrator() as admin:
            return (await admin.stream_info(STREAM)).state.last_seq


@asynccontextmanager
async def make_world(servers: Servers, folder: Path, declared: Account = BALANCES) -> AsyncIterator[World]:
    world = World(servers, Key.account(), f"balances-{uuid.uuid4().hex[:12]}", folder)
    await world.push()
    async with world.administrator() as admin:
        await ensure(admin, declared, replicas=1)
    await dynamodb.create_table(world.table, servers.dynamodb_env)
    try:
        yield world
    finally:
        async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
            await self_hosted.delete_account(system, world.account.public, servers.operator)


async def eventually(
    condition: Callable[[], Awaitable[bool]] | Callable[[], bool],
    *,
    within_s: float = 10.0,
    what: str = "the condition",
) -> None:
    """Wait for a condition; fail with its name if it does not come true."""
    deadline = time.monotonic() + within_s
    while True:
        outcome = condition()
        if outcome if isinstance(outcome, bool) else await outcome:
            return
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s:g} seconds"
        await asyncio.sleep(0.02)


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.text()


async def metric(task: Task, name: str) -> float:
    """Return the sum of a metric's samples."""
    _, text = await get(f"{task.health_url}/metrics")
    return sum(
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.partition(" ")[0].partition("{")[0] == name
    )


async def statistics(client: Client, tasks: int, verb: str = "STATS", name: str = contract.SERVICE_NAME) -> list[Any]:
    """Return the answers of `tasks` tasks to a `$SRV` request, sorted by id."""
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish(f"$SRV.{verb}.{name}" if name else f"$SRV.{verb}", b"", reply=inbox)
    found = [orjson.loads((await answers.next_msg(timeout=10)).data) for _ in range(tasks)]
    await answers.unsubscribe()
    return sorted(found, key=lambda answer: str(answer["id"]))


def log_lines(task_log: str) -> list[dict[str, Any]]:
    """Return the log's records, without the metrics that are also in it."""
    lines = [orjson.loads(line) for line in task_log.splitlines() if line.startswith("{")]
    return [line for line in lines if "_aws" not in line]


def complaint(output: str) -> str:
    """Return the last line of a process that failed to start or go on: a record, like all its log, and no traceback."""
    assert "Traceback" not in output
    assert "SEED" not in output
    *_, last = output.splitlines()
    record = orjson.loads(last)
    assert (record["event"], record["level"]) == ("ended", "error")
    assert [line for line in output.splitlines() if not line.startswith("{")] == []
    return f"error: {record['problem']}; {record['remedy']}"


@asynccontextmanager
async def clients(world: World, count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(world.client()) for _ in range(count)]


@asynccontextmanager
async def tasks(world: World, count: int, **env: str) -> AsyncIterator[list[Task]]:
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(world.launch(health_port=0, **env)) for _ in range(count)]
        await asyncio.gather(*map(ready, started))
        yield started


async def stop(*stopping: Task) -> None:
    for task in stopping:
        task.child.signal(signal.SIGTERM)
    assert [await task.child.wait() for task in stopping] == [0] * len(stopping)
