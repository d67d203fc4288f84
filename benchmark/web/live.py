"""A load whose rate and mix may change while it runs, sent by as many generator processes as needed."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import psutil

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import BALANCE, Mix
from benchmark.load.generators import HEAD_START_S, end, give_job, input_of, next_tick, spawn
from benchmark.load.job import TICK_S, Change, Job, Open, Start
from benchmark.load.totals import Second, Totals
from benchmark.plan import Plan
from benchmark.web.permitted import check_permitted

ENDLESS_S: Final = 1e9
SHORT: Final = 0.95
"""Generators that send less than this share of the rate fall short."""
PATIENCE: Final = 2
"""Consecutive seconds in which generators must fall short before a process is added."""
FULL: Final = 0.95
"""Above this share of all cores, another process would only slow the others down."""


@dataclass(frozen=True)
class Controls:
    """The state of the page's controls."""

    rate: float = 0.0
    mix: Mix = field(default_factory=lambda: {BALANCE: 1.0})
    poisson: bool = False
    processes: int = 0
    """0: as many as needed."""


class Live:
    """Runs one load at a time; `seconds` returns what happened since the last call."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._job: Job = plan.job(Open(rate=1, duration_s=ENDLESS_S))
        self._generators: list[asyncio.subprocess.Process] = []
        self._following: list[asyncio.Task[None]] = []
        self._changing = asyncio.Lock()
        self._short = 0
        self._seen = 0
        self._permitted: set[str] = set()
        """Endpoints that the user may request."""
        self.controls = Controls(mix=plan.mix)
        self.running = False
        self.note = ""
        self.totals = Totals()
        self.errors: Counter[str] = Counter()

    @property
    def processes(self) -> int:
        return len(self._generators)

    @property
    def target_rate(self) -> float:
        """Requests/s that are wanted now."""
        return self.controls.rate if self.running else 0

    async def start(self, controls: Controls) -> None:
        """Start the load, or change it to these settings.

        Raises `BenchmarkError` if its user may not request these endpoints, or a generator cannot connect.
        """
        unknown = controls.mix.keys() - self._permitted
        await check_permitted(self._plan.target, sorted(unknown))
        self._permitted |= unknown
        async with self._changing:
            if not self.running:
                self.totals, self.errors, self._seen = Totals(), Counter(), 0
            self.controls, self.running, self.note, self._short = controls, True, "", 0
            await self._share_among(controls.processes or max(1, self.processes))

    async def stop(self) -> None:
        async with self._changing:
            await self._end()

    def seconds(self) -> list[Second]:
        """Return the whole seconds since the last call."""
        new = self.totals.timeline[self._seen :]
        self._seen += len(new)
        for second in new:
            self.errors.update(second.errors)
        return new

    async def judge(self, second: Second) -> None:
        """Add a process if the generators fall short of the rate, or note why not."""
        busy = psutil.cpu_percent() / 100  # since the last second
        short = second.sent < SHORT * self.controls.rate - 1
        self._short = self._short + 1 if short and self.running else 0
        if self._short == 0:
            self.note = "" if not short else self.note
        if self._short < PATIENCE:
            return
        cores = os.cpu_count() or 1
        if self.controls.processes:
            self.note = (
                f"{self.controls.processes} processes cannot give this rate; give more, or 0 for as many as it takes"
            )
        elif busy > FULL or self.processes >= cores:
            self.note = f"the machine is the limit: {busy:.0%} of {cores} cores are in use"
        else:
            async with self._changing:
                if self.running:
                    await self._add_one()
            self._short = 0

    async def _add_one(self) -> None:
        try:
            await self._share_among(self.processes + 1)
        except BenchmarkError as error:  # the page shows it; the load has ended
            self.note = str(error)

    async def _share_among(self, processes: int) -> None:
        """Start or stop generators until there are `processes`; send each its share, valid from the same moment."""
        try:
            loop = Open(rate=self.controls.rate, duration_s=ENDLESS_S, poisson=self.controls.poisson)
            leaving, self._generators = self._generators[processes:], self._generators[:processes]
            for generator in leaving:
                input_of(generator).close()
            old = len(self._generators)
            changes = {"loop": loop, "mix": dict(self.controls.mix), "stride": processes}
            for number in range(old, processes):
                generator = await spawn()
                self._generators.append(generator)
                await give_job(generator, self._job.model_copy(update={**changes, "first": number}))
            at = self._next_moment()
            for number, generator in enumerate(self._generators):
                change = Change(at=at, first=number, loop=loop, mix=dict(self.controls.mix), stride=processes)
                message = change if number < old else Start(at=at)
                input_of(generator).write(message.model_dump_json().encode() + b"\n")
            for number in range(old, processes):
                self._following.append(asyncio.create_task(self._follow(self._generators[number])))
        except BenchmarkError:
            await self._end()
            raise

    def _next_moment(self) -> float:
        """Return a time at a whole number of ticks since the start, so that every second has equally many."""
        soon = time.monotonic() + HEAD_START_S
        if not self.totals.started_at:
            self.totals.started_at = soon
        return self.totals.started_at + math.ceil((soon - self.totals.started_at) / TICK_S) * TICK_S

    async def _follow(self, generator: asyncio.subprocess.Process) -> None:
        totals, key = self.totals, generator.pid
        try:
            while True:
                tick = await next_tick(generator)
                totals.add(key, tick)
                if tick.final:
                    return
        except BenchmarkError as error:
            if generator in self._generators:
                self.note = str(error)
                self._generators.remove(generator)
                self.running = bool(self._generators)
        finally:
            totals.in_flight_of.pop(key, None)
            totals.cpu_shares.pop(key, None)

    async def _end(self) -> None:
        self.running = False
        generators, self._generators = self._generators, []
        await end(generators)
        following, self._following = self._following, []
        await asyncio.gather(*following)
