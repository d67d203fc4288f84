"""Several generator processes as one: started together, their ticks added up."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hdrh.histogram import HdrHistogram

from benchmark.errors import BenchmarkError
from benchmark.job import Closed, Job, Open, Start, Tick
from benchmark.latency import new_histogram

HEAD_START_S: Final = 0.05
_LINE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Second:
    """One second of a run."""

    at_s: int
    replies: int
    errors: int
    p99_ms: float


@dataclass
class Totals:
    """What all generators did so far."""

    started_at: float = 0.0
    """Monotonic clock, seconds."""
    last_done: float = 0.0
    sent: int = 0
    replies: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    histogram: HdrHistogram = field(default_factory=new_histogram)
    late: int = 0
    timeline: list[Second] = field(default_factory=list)
    in_flight_of: dict[int, int] = field(default_factory=dict)
    cpu_shares: dict[int, list[float]] = field(default_factory=dict)
    interrupted: bool = False
    _this_second: Second = field(default_factory=lambda: Second(0, 0, 0, 0.0))
    _recent: HdrHistogram = field(default_factory=new_histogram)

    @property
    def elapsed_s(self) -> float:
        """From the first request to the last reply."""
        return max(0.0, self.last_done - self.started_at)

    @property
    def in_flight(self) -> int:
        return sum(self.in_flight_of.values())

    @property
    def done(self) -> int:
        return self.replies + self.errors.total()

    @property
    def busiest_cpu_share(self) -> float:
        """Mean CPU of the busiest generator, as a share of one core."""
        means = [sum(shares) / len(shares) for shares in self.cpu_shares.values() if shares]
        return max(means, default=0.0)

    def add(self, generator: int, tick: Tick) -> None:
        self._turn_to(int(max(0.0, tick.at - self.started_at)))
        errors = sum(tick.errors.values())
        second = self._this_second
        self._this_second = Second(second.at_s, second.replies + tick.replies, second.errors + errors, 0.0)
        if tick.histogram:
            self.histogram.decode_and_add(tick.histogram.encode())
            self._recent.decode_and_add(tick.histogram.encode())
        self.sent += tick.sent
        self.replies += tick.replies
        self.errors.update(tick.errors)
        self.late += tick.late
        self.last_done = max(self.last_done, tick.last_done)
        self.in_flight_of[generator] = tick.in_flight
        if tick.sent:
            self.cpu_shares.setdefault(generator, []).append(tick.cpu_share)

    def finish(self) -> None:
        """Close the last second."""
        self._turn_to(self._this_second.at_s + 1)

    def _turn_to(self, at_s: int) -> None:
        second = self._this_second
        if at_s <= second.at_s:
            return
        p99_ms = self._recent.get_value_at_percentile(99) / 1000
        self.timeline.append(Second(second.at_s, second.replies, second.errors, p99_ms))
        self.timeline.extend(Second(empty, 0, 0, 0.0) for empty in range(second.at_s + 1, at_s))
        self._this_second = Second(at_s, 0, 0, 0.0)
        self._recent.reset()


def split(job: Job, processes: int) -> list[Job]:
    """Divide the load among `processes` generators; fewer, when there is not a request in flight for each."""
    if isinstance(job.loop, Open):
        return [job.model_copy(update={"first": number, "stride": processes}) for number in range(processes)]
    processes = max(1, min(processes, job.loop.concurrency, job.loop.requests))
    return [
        job.model_copy(
            update={
                "first": number,
                "stride": processes,
                "loop": Closed(
                    requests=_share(job.loop.requests, processes, number),
                    concurrency=_share(job.loop.concurrency, processes, number),
                    duration_s=job.loop.duration_s,
                ),
            }
        )
        for number in range(processes)
    ]


def _share(total: int, parts: int, number: int) -> int:
    return total // parts + (number < total % parts)


async def run(
    job: Job,
    *,
    processes: int,
    on_tick: Callable[[Totals], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> Totals:
    """Run the load and return its totals; setting `stop` ends it early, once what is in flight has come back.

    Raises `BenchmarkError` when a generator cannot do its part.
    """
    jobs = split(job, processes)
    totals = Totals()
    generators: list[asyncio.subprocess.Process] = []
    try:
        for _ in jobs:
            generators.append(await _spawn())  # noqa: PERF401  what is there is ended, even if the next cannot start
        await asyncio.gather(*(_give_job(*pair) for pair in zip(generators, jobs, strict=True)))
        totals.started_at = time.monotonic() + HEAD_START_S
        start = Start(at=totals.started_at).model_dump_json().encode() + b"\n"
        for generator in generators:
            _input(generator).write(start)
        stopping = asyncio.create_task(_stop_when(stop, generators, totals)) if stop else None
        try:
            await asyncio.gather(
                *(_follow(number, generator, totals, on_tick) for number, generator in enumerate(generators))
            )
        finally:
            if stopping:
                stopping.cancel()
    finally:
        await _end(generators)
    totals.finish()
    return totals


async def _spawn() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmark.generator",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES, start_new_session=True,
    )  # fmt: skip


async def _give_job(generator: asyncio.subprocess.Process, job: Job) -> None:
    _input(generator).write(job.model_dump_json().encode() + b"\n")
    tick = await _next_tick(generator)
    if tick.problem:
        raise BenchmarkError(tick.problem)


async def _follow(
    number: int, generator: asyncio.subprocess.Process, totals: Totals, on_tick: Callable[[Totals], None]
) -> None:
    while True:
        tick = await _next_tick(generator)
        totals.add(number, tick)
        on_tick(totals)
        if tick.final:
            return


async def _next_tick(generator: asyncio.subprocess.Process) -> Tick:
    assert generator.stdout
    line = await generator.stdout.readline()
    if not line:
        raise BenchmarkError(f"a generator process ended with {await generator.wait()}; see its message above")
    return Tick.model_validate_json(line)


async def _stop_when(stop: asyncio.Event, generators: Sequence[asyncio.subprocess.Process], totals: Totals) -> None:
    await stop.wait()
    totals.interrupted = True
    for generator in generators:
        _input(generator).close()


async def _end(generators: Sequence[asyncio.subprocess.Process]) -> None:
    for generator in generators:
        _input(generator).close()
        try:
            async with asyncio.timeout(2):
                await generator.wait()
        except TimeoutError:
            generator.kill()
            await generator.wait()


def _input(generator: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    assert generator.stdin
    return generator.stdin
