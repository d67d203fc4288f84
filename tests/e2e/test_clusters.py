"""Every role on a cluster, given one of its nodes: two are killed under it, and one is added in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.js.errors import APIError

from control_plane.desired import EVERYTHING
from control_plane.errors import ProvisioningError
from local.process import claim_port
from local.scaling.supervisor import KEYS
from local.servers import dynamodb
from local.system import Task, ready, service_env, service_task
from service.nats.connection import Connection
from service.nats.settings import NatsSettings
from tests.support.drills.drill import Drill
from tests.support.nats.cluster import WAYS, plain_cluster
from tests.support.nats.declared import ensure
from tests.support.world import World, eventually, get, log_lines


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.drill(
    "each role on a cluster of three, given one node: it is killed, one is added, the next is killed",
    "requests are answered and events archived; no process ends",
)
async def test_roles_find_their_way(
    name: str, world: World, drill: Drill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not drill.full and name != "password":
        pytest.skip("with --drill-full; `test_clusters.py` of the runtime tries the connection itself")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with plain_cluster(tmp_path, WAYS[name]) as cluster:
        first, url = await cluster.add()
        await cluster.add()
        await cluster.add()
        async with requester(url) as nc, roles(world, url, tmp_path) as tasks:
            await eventually(lambda: balance(nc), within_s=30, what="an answer")
            await cluster.kill(first)
            await all_ready(tasks)
            await eventually(lambda: balance(nc), within_s=30, what="an answer without the first node")
            await cluster.add()
            second = nc.connected_url.port
            await cluster.kill(second)
            await eventually(lambda: balance(nc), within_s=30, what="an answer without the second node")
            await cluster.start(second)
            await all_ready(tasks)
            answered = await archived(world)
            await eventually(lambda: balance(nc), within_s=30, what="an answer at last")
            await eventually(lambda: more_archived(world, answered), within_s=60, what="its event as a row")
            for task in tasks:
                assert task.child.process.returncode is None
                lost = [line for line in log_lines(task.child.log.read_text()) if line["level"] == "error"]
                assert lost == [], task.child.name
    drill.found(f"{name}: three roles, two nodes killed, one added")


@asynccontextmanager
async def requester(url: str) -> AsyncIterator[Any]:
    """A connection to the cluster, its streams and buckets on three nodes."""
    connection = Connection(NatsSettings(nats_url=url), name="requester", inbox_prefix="_INBOX", on_lost=print)
    await connection.open()

    async def provisioned() -> bool:
        try:
            await ensure(connection.nc.jetstream(timeout=2), EVERYTHING, replicas=3)
        except (ProvisioningError, nats.errors.Error, APIError):
            return False
        return True

    try:
        await eventually(provisioned, within_s=60, what="JetStream on three nodes")
        yield connection.nc
    finally:
        await connection.close()


@asynccontextmanager
async def roles(world: World, url: str, folder: Path) -> AsyncIterator[list[Task]]:
    await dynamodb.create_table(events_table(world), world.servers.dynamodb_env, KEYS)
    env = {
        **service_env(url, None, world.table, world.servers.dynamodb_env),
        "LOG_FORMAT": "json",
        "SEED_ROWS": "20",
        "SSL_CERT_FILE": str(folder / "ca.pem"),
        "ARCHIVE_SOURCE": "jetstream:customer-balances",
        "ARCHIVE_TABLE": events_table(world),
        "IDLE_EXIT": "0",
        "QUEUE": "jetstream:customer-balances",
        "QUEUE_LISTEN": f"127.0.0.1:{claim_port(0, '')}",
    }
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(
                service_task(role, env, claim_port(0, ""), folder / f"{role}.log", role=role)
            )
            for role in ("customer", "archive", "queue")
        ]
        for task in started:
            await ready(task)
        yield started


async def all_ready(tasks: list[Task]) -> None:
    for task in tasks:

        async def is_ready(task: Task = task) -> bool:
            return (await get(f"{task.health_url}/readyz"))[0] == 200

        await eventually(is_ready, within_s=60, what=f"a ready {task.child.name}")


async def balance(nc: Any) -> bool:
    try:
        reply = await nc.request("customer.balance", b'{"client_id":"7"}', timeout=2)
    except nats.errors.Error:
        return False
    return bool(reply.data.startswith(b'{"balance":'))


def events_table(world: World) -> str:
    return f"{world.table}-events"


async def archived(world: World) -> int:
    engine = dynamodb.client(world.servers.dynamodb_env)
    return int(engine.scan(TableName=events_table(world), Select="COUNT")["Count"])


async def more_archived(world: World, than: int) -> bool:
    return await archived(world) > than
