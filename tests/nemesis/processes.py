"""The processes of a run, each behind a network of its own, and started again whenever it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from local.process import claim_port
from local.system import Task, service_task
from service.runtime.cancel import cancel
from tests.nemesis.history import Ended, History
from tests.support.network import Network

AGAIN_S = 0.2


class Slot:
    """A place for a process: what ends in it is started again, as ECS starts a task again."""

    def __init__(self, name: str, role: str, env: Mapping[str, str], network: Network, log: Path) -> None:
        self.name = name
        self.network = network
        self.log = log
        self._role = role
        self.env = env
        self._port = claim_port(0, "")
        self._asked = ""
        self._task: Task | None = None
        self._running: asyncio.Task[None] | None = None
        self.health_url = f"http://127.0.0.1:{self._port}"

    def start(self, history: History) -> None:
        self._running = asyncio.create_task(self._run(history), name=self.name)

    async def _run(self, history: History) -> None:
        while True:
            self._asked = ""
            async with service_task(self.name, self.env, self._port, self.log, role=self._role) as self._task:
                code = await self._task.child.wait()
                history.ended.append(Ended(self.name, code, self._asked, self._task.child.last_words()))
            await asyncio.sleep(AGAIN_S)

    async def stop(self) -> None:
        """End its process as a deployment does."""
        if self._running:
            await cancel(self._running)

    def kill(self) -> None:
        self._ask("kill", signal.SIGKILL)

    def terminate(self) -> None:
        self._ask("terminate", signal.SIGTERM)

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
        if self._task and self._task.child.process.returncode is None and self._asked != what:
            self._asked = what  # a second SIGTERM would end it at once, as documented
            self._task.child.signal(number)
