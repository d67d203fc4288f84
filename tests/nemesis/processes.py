"""The processes of a run, each behind a network of its own, and started again whenever it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from local.process import claim_port
from local.servers import dynamodb
from local.system import Task, service_task
from service.contracts import archive, queue
from service.contracts.stream import STREAM
from service.runtime.cancel import cancel
from tests.nemesis.checker.history import Ended, History
from tests.nemesis.credentials import encoded
from tests.nemesis.mutants import launched
from tests.nemesis.plan import PROCESSES, Plan
from tests.support.devices.world import DevicesWorld
from tests.support.dynamodb.faulty import FaultyDynamoDB
from tests.support.network import Network, network
from tests.support.world import World, eventually, get, one_authority

AGAIN_S = 0.2
ROLLED_S = 60.0
SEED_ROWS = 100


class Slot:
    """A place for a process: what ends in it is started again, as ECS starts a task again."""

    def __init__(self, name: str, module: str, env: Mapping[str, str], networks: Sequence[Network], log: Path) -> None:
        self.name = name
        self.networks = networks
        """Its way to each nats-server."""
        self.log = log
        self._module = module
        self.env = env
        """Of the next process; a change does not reach the one that runs."""
        self._port = claim_port(0, "")
        self.starts = 0
        self._asked = ""
        self._task: Task | None = None
        self._running: asyncio.Task[None] | None = None
        self.health_url = f"http://127.0.0.1:{self._port}"

    def start(self, history: History) -> None:
        self._running = asyncio.create_task(self._run(history), name=self.name)

    async def _run(self, history: History) -> None:
        role = self.name.partition("-")[0]
        while True:
            self._asked = ""
            self.starts += 1
            began_s = time.monotonic()
            async with service_task(self.name, self.env, self._port, self.log, self._module, role) as self._task:
                code = await self._task.child.wait()
                life = began_s, time.monotonic()
                history.ended.append(Ended(self.name, code, self._asked, self._task.child.last_words(), life))
            await asyncio.sleep(AGAIN_S)

    async def stop(self) -> None:
        """End its process as a deployment does."""
        if self._running:
            await cancel(self._running)

    def kill(self) -> None:
        self._ask("kill", signal.SIGKILL)

    def terminate(self) -> None:
        self._ask("terminate", signal.SIGTERM)

    def reset(self) -> None:
        for each in self.networks:
            each.reset()

    async def rolled(self) -> None:
        """Terminate the process; return when the next one is ready."""
        before = self.starts
        self.terminate()
        await eventually(lambda: self.starts > before, within_s=ROLLED_S, what=f"the end of {self.name}")
        await eventually(self.is_ready, within_s=ROLLED_S, what=f"the next process of {self.name}")

    async def is_ready(self) -> bool:
        try:
            async with asyncio.timeout(2):
                return (await get(f"{self.health_url}/readyz"))[0] == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        task = self._task
        if task:
            task.child.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if task:
                task.child.signal(signal.SIGCONT)

    def memory_mib(self) -> float:
        return float(psutil.Process(self._task.child.pid).memory_info().rss) / 2**20 if self._task else 0.0

    def _ask(self, what: str, number: signal.Signals) -> None:
        again = self._asked and what != "kill"  # a second SIGTERM would end it at once, as documented
        if self._task and self._task.child.process.returncode is None and not again:
            self._asked = what
            self._task.child.signal(number)


async def make_slots(
    stack: AsyncExitStack, world: World, devices: DevicesWorld, table: FaultyDynamoDB, plan: Plan, folder: Path,
    service_creds: str, mutant: str,
) -> dict[str, Slot]:  # fmt: skip
    """Make the table of events and a slot for each of `PROCESSES`, of the service or of a `mutant` of it."""
    adjustments = await world.with_adjustments()
    await dynamodb.create_table(f"{world.table}-events", world.servers.dynamodb_env,
                                (archive.PARTITION_KEY, archive.SORT_KEY))  # fmt: skip
    listen, (module, marked) = f"127.0.0.1:{claim_port(0, '')}", launched(mutant)
    of_role: dict[str, dict[str, str]] = {
        "customer": {**adjustments, "DDB_TABLE": world.table, "SEED_ROWS": str(SEED_ROWS),
                     "NATS_CREDENTIALS": service_creds},
        "archive": {"ARCHIVE_SOURCE": f"jetstream:{STREAM}", "ARCHIVE_TABLE": f"{world.table}-events",
                    "IDLE_EXIT": "0", "NATS_CREDENTIALS": encoded(world.creds(archive.USER))},
        "queue": {"QUEUE": f"jetstream:{STREAM}", "QUEUE_LISTEN": listen, "QUEUE_MAX_DELIVER": "1000",
                  "NATS_CREDENTIALS": encoded(world.creds(queue.USER))},
        "devices": devices.environment(),
    }  # fmt: skip
    common = {"PATH": os.environ.get("PATH", ""), "LOG_FORMAT": "json", "SHUTDOWN_TIMEOUT": str(plan.shutdown_s),
              **table.env, **one_authority(), **marked}  # fmt: skip
    slots = {}
    for name in PROCESSES:
        ways = [await stack.enter_async_context(network(url)) for url in world.nats_url.split(",")]
        env = {**of_role[name.partition("-")[0]], **common, "NATS_URL": ",".join(url for _, url in ways)}
        slots[name] = Slot(name, module, env, [each for each, _ in ways], folder / f"{name}.log")
    return slots
