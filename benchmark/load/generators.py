"""Run several generator processes as one: start and stop them together."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from benchmark.errors import BenchmarkError
from benchmark.load.job import Closed, Job, Open, Start, Tick
from benchmark.load.totals import Totals

GENERATOR: Final = "benchmark.load.generator"
HEAD_START_S: Final = 0.05
_LINE_BYTES: Final = 1 << 20


def split(job: Job, processes: int) -> list[Job]:
    """Divide the load among `processes` generators, or fewer if there are too few requests in flight."""
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
    """Run the load and return its totals. Setting `stop` ends it early, once requests in flight have ended.

    Raises `BenchmarkError` if a generator fails.
    """
    jobs = split(job, processes)
    totals = Totals()
    generators: list[asyncio.subprocess.Process] = []
    try:
        for _ in jobs:
            module = "benchmark.load.raw_generator" if job.frames else GENERATOR
            generators.append(await spawn(module))  # one by one: `end` must know them even if the next cannot start
        await asyncio.gather(*(give_job(*pair) for pair in zip(generators, jobs, strict=True)))
        totals.started_at = time.monotonic() + HEAD_START_S
        start = Start(at=totals.started_at).model_dump_json().encode() + b"\n"
        for generator in generators:
            input_of(generator).write(start)
        stopping = asyncio.create_task(_stop_when(stop, generators, totals)) if stop else None
        try:
            await asyncio.gather(
                *(_follow(number, generator, totals, on_tick) for number, generator in enumerate(generators))
            )
        finally:
            if stopping:
                stopping.cancel()
    finally:
        await end(generators)
    totals.finish()
    return totals


async def spawn(module: str = GENERATOR) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES, start_new_session=True,
    )  # fmt: skip


async def give_job(generator: asyncio.subprocess.Process, job: Job) -> None:
    input_of(generator).write(job.model_dump_json().encode() + b"\n")
    await next_tick(generator)


async def _follow(
    number: int, generator: asyncio.subprocess.Process, totals: Totals, on_tick: Callable[[Totals], None]
) -> None:
    while True:
        tick = await next_tick(generator)
        totals.add(number, tick)
        on_tick(totals)
        if tick.final:
            return


async def next_tick(generator: asyncio.subprocess.Process) -> Tick:
    """Return the generator's next tick. Raises `BenchmarkError` if it has failed."""
    assert generator.stdout
    line = await generator.stdout.readline()
    if not line:
        raise BenchmarkError(f"a generator process ended with {await generator.wait()}; see its message above")
    tick = Tick.model_validate_json(line)
    if tick.problem:
        raise BenchmarkError(tick.problem)
    return tick


async def _stop_when(stop: asyncio.Event, generators: Sequence[asyncio.subprocess.Process], totals: Totals) -> None:
    await stop.wait()
    totals.interrupted = True
    for generator in generators:
        input_of(generator).close()


async def end(generators: Sequence[asyncio.subprocess.Process]) -> None:
    for generator in generators:
        input_of(generator).close()
        try:
            async with asyncio.timeout(2):
                await generator.wait()
        except TimeoutError:
            generator.kill()
            await generator.wait()


def input_of(generator: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    assert generator.stdin
    return generator.stdin
