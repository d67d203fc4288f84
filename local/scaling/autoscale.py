"""Start and stop tasks on this machine by the deployed rules, each limited to its vCPU."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from local.process import claim_port
from local.scaling.target_tracking import PERIOD_S, Rules, TargetTracking
from local.system import Say, Task, ready, service_task

_COUNTERS: Final = {
    "Cpu": "process_cpu_seconds_total",
    "InFlight": "balance_request_seconds_sum",
    "TimeWithoutCredit": "balance_without_credit_seconds_total",
}
"""Metric -> counter whose growth per second it is. For requests that is the number in flight, by Little's law."""


class Autoscaler:
    """Keeps as many tasks as the rules require and replaces those that end. Run `run` until it is cancelled."""

    def __init__(
        self, rules: Rules, env: Mapping[str, str], logs: Path, *, speed: float = 1.0, say: Say = lambda _: None
    ) -> None:
        self.tasks: dict[Task, AsyncExitStack] = {}
        """Tasks that take requests, so without draining ones."""
        self._rules = rules
        self._tracking = TargetTracking(rules)
        self._env = env
        self._logs = logs
        self._speed = speed
        self._say = say
        self._numbers = itertools.count(1)
        self._draining: set[asyncio.Task[None]] = set()
        self._seen: dict[Task, tuple[float, Mapping[str, float]]] = {}

    async def run(self) -> None:
        try:
            await self._keep(self._rules.min_tasks)
            while True:
                await asyncio.sleep(PERIOD_S / self._speed)
                await self._replace_ended()
                readings = await self._readings()
                if readings is None:
                    continue
                now_s = asyncio.get_running_loop().time() * self._speed
                wanted = self._tracking.decide(now_s, len(self.tasks), readings)
                if wanted != len(self.tasks):
                    seen = ", ".join(f"{name} {value:.0f}" for name, value in readings.items())
                    self._say(f"{seen}: {len(self.tasks)} tasks become {wanted}")
                    await self._keep(wanted)
        finally:
            for running in self.tasks.values():
                await running.aclose()
            await asyncio.gather(*self._draining)

    async def _keep(self, wanted: int) -> None:
        await asyncio.gather(*(self._start() for _ in range(wanted - len(self.tasks))))
        while len(self.tasks) > wanted:
            task, running = self.tasks.popitem()
            self._seen.pop(task, None)
            draining = asyncio.create_task(self._drain(task, running))
            self._draining.add(draining)
            draining.add_done_callback(self._draining.discard)

    async def _start(self) -> None:
        name = f"service-{next(self._numbers)}"
        async with AsyncExitStack() as stack:
            task = await stack.enter_async_context(
                service_task(name, self._env, claim_port(0, ""), self._logs / f"{name}.log", vcpu=self._rules.vcpu)
            )
            await ready(task)
            self.tasks[task] = stack.pop_all()
        bound = f", bounded to {self._rules.vcpu:g} vCPU" if task.is_bounded else ", its CPU not bounded"
        self._say(f"{name} is ready{bound}")

    async def _drain(self, task: Task, running: AsyncExitStack) -> None:
        await running.aclose()
        self._say(f"{task.child.name} drained and ended with {task.child.process.returncode}")

    async def _replace_ended(self) -> None:
        ended = [task for task in self.tasks if task.child.process.returncode is not None]
        for task in ended:
            self._say(f"{task.child.name} ended with {task.child.process.returncode}; another takes its place")
            await self.tasks.pop(task).aclose()
            self._seen.pop(task, None)
        await asyncio.gather(*(self._start() for _ in ended))

    async def _readings(self) -> dict[str, float] | None:
        """Return each metric's average over the tasks since the last reading; new tasks count from their second one."""
        growths = [growth for growth in await asyncio.gather(*map(self._growth, list(self.tasks))) if growth]
        return averaged(growths, self._rules.vcpu)

    async def _growth(self, task: Task) -> dict[str, float] | None:
        """Return each counter's growth per second; None if the task does not answer, or at its first reading."""
        now_s = asyncio.get_running_loop().time()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PERIOD_S / self._speed)) as http,
                http.get(f"{task.health_url}/metrics") as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return None
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        totals = {
            name: sum(sample.value for sample in samples if sample.name == counter)
            for name, counter in _COUNTERS.items()
        }
        before = self._seen.get(task)
        self._seen[task] = now_s, totals
        if before is None:
            return None
        return {name: (totals[name] - before[1][name]) / (now_s - before[0]) for name in totals}


def averaged(growths: Sequence[Mapping[str, float]], vcpu: float) -> dict[str, float] | None:
    """Return the average readings for these growths per second; None without any: that does not mean a low load."""
    if not growths:
        return None
    averages = {name: sum(each[name] for each in growths) / len(growths) for name in _COUNTERS}
    return {
        "Cpu": 100 * averages["Cpu"] / vcpu,
        "InFlight": averages["InFlight"],
        "TimeWithoutCredit": min(100.0, 100 * averages["TimeWithoutCredit"]),
    }
