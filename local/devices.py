"""Run the role `devices` in the local system."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from local.dynamodb import create_table
from local.process import claim_port
from local.system import System, Task, ready, service_env, service_task
from service.contracts import devices as contract

TABLE: Final = "readings"
KEYS: Final = (contract.PARTITION_KEY, contract.SORT_KEY)


@asynccontextmanager
async def devices_role(
    system: System, logs: Path, env: Mapping[str, str], port: int = 0
) -> AsyncIterator[tuple[Task, str]]:
    """Make the table, and yield a ready process of the role and the address of its gRPC API.

    Raises `LocalError` when it does not start or the port is taken.
    """
    await create_table(TABLE, system.dynamodb_env, KEYS)
    port = claim_port(port, "--devices-port")
    listen = f"127.0.0.1:{port}"
    given = service_env(system.nats_url, system.creds[contract.USER], "", system.dynamodb_env)
    del given["DDB_TABLE"]
    given |= {"DEVICES_TABLE": TABLE, "DEVICES_LISTEN": listen, **env}
    async with service_task("devices", given, claim_port(0, ""), logs / f"devices-{port}.log", role="devices") as task:
        await ready(task)
        yield task, listen
