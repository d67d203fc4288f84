"""Measure `customer.create` beside its write: the rate of creates over NATS relative to the writes alone.

The writes alone are `Table.insert` in a loop, in a separate process like a task: with the same client, event loop and
engine. `python -m benchmark.cost.create` is that process. Each line of its input is a number of seconds, each line of
its output the resulting `Writes`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Final

import uvloop

from benchmark.cost.bare_loop import TABLE, Writes, bare_loop, serve
from benchmark.cost.rounds import in_turns
from service.contracts import customer as contract
from service.customer.store.rows import make_row
from service.dynamodb.table import Table

CONCURRENCY: Final = 100
"""Creates or inserts in flight."""
TURNS: Final = 3
"""Turns per round."""

Measure = Callable[[float], Awaitable[float]]
"""Seconds -> writes/s in that time."""


async def ratio(
    created: Measure, inserted: Measure, *, rounds: int, step_s: float, warm_up_s: float, say: Callable[[str], None]
) -> float:
    """Return the rate of creates over that of inserts: the median of turns.

    A round of `step_s` is split into `TURNS` short turns: other load on the machine affects both, or spoils one.
    """
    both = (created, inserted)
    for measure in both:
        await measure(warm_up_s)
    ratios = []
    async for creates, inserts in in_turns([partial(measure, step_s / TURNS) for measure in both], rounds * TURNS):
        ratios.append(creates / inserts)
        say(f"creates: {creates:,.0f}/s, of {inserts:,.0f} inserts/s")
    return statistics.median(ratios)


@asynccontextmanager
async def inserting(table: str, dynamodb_env: Mapping[str, str]) -> AsyncIterator[Measure]:
    """Run the process that inserts into a table; yield a function that measures it.

    The function raises `BenchmarkError` if a row cannot be written.
    """
    async with bare_loop("benchmark.cost.create", table, dynamodb_env) as write:

        async def measure(duration_s: float) -> float:
            return (await write(duration_s)).rate

        yield measure


async def insert_for(table: Table, duration_s: float) -> float:
    """Keep `CONCURRENCY` inserts of new rows in flight for that long; return their rate.

    Raises what `Table.insert` raises.
    """
    loop, nonce, numbers = asyncio.get_running_loop(), f"load-{uuid.uuid4().hex[:12]}", count()
    started_at = loop.time()

    async def one_after_another() -> int:
        written = 0
        while loop.time() < started_at + duration_s:
            texts = {contract.NAME_ATTRIBUTE: "Load", contract.CREATED_AT_ATTRIBUTE: "2024-01-23"}
            written += await table.insert(make_row(f"{nonce}-{next(numbers)}", 0, texts))
        return written

    written = sum(await asyncio.gather(*(one_after_another() for _ in range(CONCURRENCY))))
    return written / (loop.time() - started_at)


async def main() -> None:
    """Measure as each line of input says, until the input ends."""
    table = Table(os.environ[TABLE], contract.KEY_ATTRIBUTE, TABLE)
    table.open()

    async def write(seconds: str) -> Writes:
        return Writes(rate=await insert_for(table, float(seconds)))

    try:
        await serve(write)
    finally:
        table.close()


if __name__ == "__main__":
    uvloop.run(main())
