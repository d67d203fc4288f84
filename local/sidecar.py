"""Run a queue sidecar of the local system, as beside a business container."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from local.process import claim_port
from local.system import System, Task, ready, service_env, service_task
from service.contracts import queue as contract


def stream_env(system: System) -> dict[str, str]:
    """Return the environment of a sidecar for the system's stream."""
    env = service_env(system.nats_url, system.creds[contract.USER], "", {})
    del env["DDB_TABLE"]
    return {**env, "QUEUE": f"jetstream:{contract.STREAM}"}


@asynccontextmanager
async def sidecar(env: Mapping[str, str], logs: Path, port: int = 0) -> AsyncIterator[tuple[Task, str]]:
    """Yield a ready sidecar and its address. Raises `LocalError` when it does not start or the port is taken."""
    port = claim_port(port, "--queue-port")
    listen = f"127.0.0.1:{port}"
    given = {**env, "QUEUE_LISTEN": listen}
    async with service_task("queue", given, claim_port(0, ""), logs / f"queue-{port}.log", role="queue") as task:
        await ready(task)
        yield task, listen
