"""One generator process: a `Job` on its first line of input, ready, `Start`, ticks until it is done.

The end of its input stops it, so that it never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys

import uvloop

from benchmark.errors import BenchmarkError
from benchmark.job import Job, Start, Tick
from benchmark.load import Load
from benchmark.transport import opened

TICK_S = 0.25


async def generate(job: Job) -> None:
    load = Load(job)
    try:
        async with opened(job.target, job.subject, job.timeout_s, load.on_reply) as transport:
            tell(load.tick())
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                return
            gc.freeze()
            ticking = asyncio.create_task(tick_on(load))
            listening = asyncio.create_task(stop_at_end_of_input(load))
            try:
                await load.run(transport, Start.model_validate_json(line).at)
            finally:
                ticking.cancel()
                listening.cancel()
                await asyncio.gather(ticking, listening, return_exceptions=True)
            tell(load.tick(final=True))
    except BenchmarkError as error:
        tell(Tick(at=0.0, final=True, problem=str(error)))


async def tick_on(load: Load) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        tell(load.tick())


async def stop_at_end_of_input(load: Load) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    load.stop()


def tell(tick: Tick) -> None:
    print(tick.model_dump_json(), flush=True)


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    with contextlib.suppress(BrokenPipeError):
        uvloop.run(generate(Job.model_validate_json(sys.stdin.readline())))
