"""Simulate ECS's step scaling: read the archive's backlog, and start archive processes by it.

A task ends when nothing is left. One that dies leaves a backlog, and a later reading starts another.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from nats.js import JetStreamContext

from deploy.file import read
from deploy.sections import ArchiveSection
from local.process import Child, LocalError, claim_port
from local.system import Say, service_task
from service.contracts import archive as contract
from service.nats.jetstream import backlog

POLL_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Longest pause between starts while tasks fail."""
ENDED_KEPT: Final = 20
"""How many ended tasks to remember, with their logs."""
TABLE: Final = "events"
KEYS: Final = (contract.PARTITION_KEY, contract.SORT_KEY)


def section() -> ArchiveSection:
    """Read [archive] of `deploy/settings.toml`."""
    return ArchiveSection(**read().get("archive", {}))


class Supervisor:
    """Keeps as many archive processes as the backlog requires. Run `run` until it is cancelled."""

    def __init__(
        self,
        backlog: Callable[[], Awaitable[int]],
        env: Mapping[str, str],
        logs: Path,
        steps: ArchiveSection,
        say: Say = lambda _: None,
    ) -> None:
        self.running: list[Child] = []
        self.ended: deque[Child] = deque()
        """The last `ENDED_KEPT` tasks that ended."""
        self._backlog = backlog
        self._env = env
        self._logs = logs
        self._steps = steps
        self._say = say
        self._number = itertools.count(1)
        self._problem = ""
        self._failed = 0
        """How many tasks in a row ended with an error."""
        self._start_at_s = 0.0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                backlog = await self._read()
                if time.monotonic() >= self._start_at_s:
                    for _ in range(self._steps.tasks(backlog) - len(self.running)):
                        started = asyncio.Event()
                        tasks.create_task(self._task(backlog, started))
                        await started.wait()
                await asyncio.sleep(POLL_S)

    async def _read(self) -> int:
        """Return the backlog; 0 while it cannot be read, so that no task starts."""
        try:
            backlog = await self._backlog()
        except Exception as error:  # whatever it was, the next reading may succeed
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                self._say(f"the backlog cannot be read ({problem}); trying again")
            self._problem = problem
            return 0
        self._problem = ""
        return backlog

    async def _task(self, backlog: int, started: asyncio.Event) -> None:
        """Run one task from its start to its end."""
        name = f"archive-{next(self._number)}"
        env = {"IDLE_EXIT": str(self._steps.idle_exit), **self._env}
        log = self._logs / f"{name}.log"
        try:
            async with service_task(name, env, claim_port(0, ""), log, role="archive") as task:
                child = task.child
                self.running.append(child)
                self._say(f"backlog {backlog:,}: {name} starts, task {len(self.running)}")
                started.set()
                code = await child.wait()
        except LocalError as error:
            self._say(str(error))
            self._pause(1)
        else:
            self._say(f"{name} ended with {code}" + (f": {child.last_words()}" if code else ""))
            self._remember(child)
            self._pause(code)
        finally:
            started.set()

    def _pause(self, code: int) -> None:
        """Delay the next start if the task failed: longer after each failure in a row."""
        self._failed = self._failed + 1 if code else 0
        if code:
            self._start_at_s = time.monotonic() + min(LONGEST_PAUSE_S, POLL_S * 2.0 ** min(self._failed, 10))

    def _remember(self, child: Child) -> None:
        self.running.remove(child)
        self.ended.append(child)
        if len(self.ended) > ENDED_KEPT:
            self.ended.popleft().log.unlink(missing_ok=True)


async def stream_backlog(jetstream: JetStreamContext) -> int:
    """Return how many messages wait in the stream or are held by any task."""
    info = await jetstream.consumer_info(contract.STREAM, contract.CONSUMER)
    return backlog(info)
