"""A generator process: reads a `Job`, reports that it is ready, reads `Start` and any `Change`s, and ticks until done.

It stops at the end of its input, so that it never outlives its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from itertools import count

import uvloop

from benchmark.errors import BenchmarkError
from benchmark.load.job import TICK_S, Change, Job, Start, Tick
from benchmark.load.loops import Load
from benchmark.load.transport import opened


async def generate(job: Job) -> None:
    load = Load(job)
    try:
        async with opened(job.target, job.timeout_s, load.on_reply, load.fail) as transport:
            tell(load.tick())
            lines = await further_input()
            line = await lines.readline()
            if not line:
                return
            gc.freeze()
            start_at = Start.model_validate_json(line).at
            ticking = asyncio.create_task(tick_on(load, start_at))
            listening = asyncio.create_task(listen(load, lines))
            try:
                await load.run(transport, start_at)
            finally:
                ticking.cancel()
                listening.cancel()
                await asyncio.gather(ticking, listening, return_exceptions=True)
            tell(load.tick(final=True))
    except BenchmarkError as error:
        tell(Tick(at=0.0, final=True, problem=str(error)))


async def tick_on(load: Load, start_at: float) -> None:
    """Tick at each multiple of `TICK_S` since the start, so that every second has the same number of ticks."""
    for number in count(1):
        await asyncio.sleep(max(0.0, start_at + number * TICK_S - time.monotonic()))
        tell(load.tick())


async def further_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def listen(load: Load, lines: asyncio.StreamReader) -> None:
    """Apply each further line of input as a `Change`; stop the load when the input ends."""
    while line := await lines.readline():
        load.change(Change.model_validate_json(line))
    load.stop()


def tell(tick: Tick) -> None:
    print(tick.model_dump_json(), flush=True)


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    with contextlib.suppress(BrokenPipeError):
        uvloop.run(generate(Job.model_validate_json(sys.stdin.readline())))
