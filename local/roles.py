"""Run a queue sidecar, as beside a business container, and the role `devices` in the local system."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from local.process import claim_port
from local.servers.dynamodb import create_table
from local.system import System, Task, ready, service_env, service_task
from service.contracts import devices, queue

READINGS_TABLE: Final = "readings"
KEYS: Final = (devices.PARTITION_KEY, devices.SORT_KEY)


def stream_env(system: System) -> dict[str, str]:
    """Return the environment of a sidecar for the system's stream."""
    env = service_env(system.nats_url, system.creds[queue.USER], "", {})
    return {**env, "QUEUE": f"jetstream:{queue.STREAM}"}


def sidecar(env: Mapping[str, str], logs: Path, port: int = 0) -> AbstractAsyncContextManager[tuple[Task, str]]:
    """Yield a ready sidecar and its address. Raises `LocalError` when it does not start or the port is taken."""
    return _listening("queue", env, logs, port)


@asynccontextmanager
async def devices_role(
    system: System, logs: Path, env: Mapping[str, str], port: int = 0
) -> AsyncIterator[tuple[Task, str]]:
    """Make the table, and yield a ready process of the role and the address of its gRPC API.

    Raises `LocalError` when it does not start or the port is taken.
    """
    await create_table(READINGS_TABLE, system.dynamodb_env, KEYS)
    own = service_env(system.nats_url, system.creds[devices.USER], "", system.dynamodb_env)
    async with _listening("devices", {**own, "DEVICES_TABLE": READINGS_TABLE, **env}, logs, port) as running:
        yield running


@asynccontextmanager
async def _listening(role: str, env: Mapping[str, str], logs: Path, port: int) -> AsyncIterator[tuple[Task, str]]:
    port = claim_port(port, f"--{role}-port")
    listen = f"127.0.0.1:{port}"
    given = {**env, f"{role.upper()}_LISTEN": listen}
    async with service_task(role, given, claim_port(0, ""), logs / f"{role}-{port}.log", role=role) as task:
        await ready(task)
        yield task, listen
