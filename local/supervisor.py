"""What ECS' step scaling does, on this machine: reads the archive's backlog, and starts archive processes by it.

A task ends by itself when nothing is left. One that dies leaves a backlog, and the next reading starts another.
"""

from __future__ import annotations

import asyncio
import itertools
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from nats.js import JetStreamContext

from cdk.sections import ArchiveSection
from local.process import ROOT, Child, claim_port
from local.system import Say, service_task
from service.archive import contract

POLL_S: Final = 1.0
TABLE: Final = "events"
KEYS: Final = (contract.PARTITION_KEY, contract.SORT_KEY)


def section() -> ArchiveSection:
    """[archive] of `cdk/settings.toml`."""
    return ArchiveSection(**tomllib.loads((ROOT / "cdk" / "settings.toml").read_text()).get("archive", {}))


class Supervisor:
    """Keeps as many archive processes as the backlog asks for; `run` until it is cancelled."""

    def __init__(
        self,
        backlog: Callable[[], Awaitable[int]],
        env: Mapping[str, str],
        logs: Path,
        steps: ArchiveSection,
        say: Say = lambda _: None,
    ) -> None:
        self.children: list[Child] = []
        """Every process that was started, the ended ones too."""
        self._backlog = backlog
        self._env = env
        self._logs = logs
        self._steps = steps
        self._say = say
        self._number = itertools.count(1)

    @property
    def running(self) -> list[Child]:
        return [child for child in self.children if child.process.returncode is None]

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            ended: set[Child] = set()
            while True:
                backlog = await self._backlog()
                for child in self.children:
                    if child.process.returncode is not None and child not in ended:
                        ended.add(child)
                        self._say(f"{child.name} ended with {child.process.returncode}")
                for _ in range(self._steps.tasks(backlog) - len(self.running)):
                    name = f"archive-{next(self._number)}"
                    log = self._logs / f"{name}.log"
                    env = {"IDLE_EXIT": str(self._steps.idle_exit), **self._env}
                    task = await stack.enter_async_context(
                        service_task(name, env, claim_port(0, ""), log, role="archive")
                    )
                    self.children.append(task.child)
                    self._say(f"backlog {backlog:,}: {name} starts, task {len(self.running)}")
                await asyncio.sleep(POLL_S)


async def stream_backlog(jetstream: JetStreamContext) -> int:
    """What waits in the stream, and what any task holds."""
    info = await jetstream.consumer_info(contract.STREAM, contract.CONSUMER)
    return (info.num_pending or 0) + (info.num_ack_pending or 0)
