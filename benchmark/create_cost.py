"""What `customer.create` costs beside its write: the rate of creates through NATS, of that of the writes alone.

The writes alone are `Table.insert` in a loop, in a process of its own, as a task is one: the same client, event loop
and engine. `python -m benchmark.create_cost` is that process. Each line of its input is a number of seconds, each line
of its output the `Rate` over them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import uvloop
from pydantic import BaseModel

from benchmark.errors import BenchmarkError
from benchmark.generator import further_input
from benchmark.generators import end, input_of
from service.customer import contract
from service.customer.rows import make_row
from service.dynamodb.table import Table

CONCURRENCY: Final = 100
"""Creates, or inserts, in flight."""
TURNS: Final = 3
"""In a round."""

Measure = Callable[[float], Awaitable[float]]
"""Seconds -> writes/s over them."""


class Rate(BaseModel):
    """Writes/s, or why there are none."""

    rate: float = 0.0
    problem: str | None = None


async def ratio(
    created: Measure, inserted: Measure, *, rounds: int, step_s: float, warm_up_s: float, say: Callable[[str], None]
) -> float:
    """The rate of creates over that of inserts, measured in turns: the median of the turns.

    A round of `step_s` is `TURNS` short turns: what else the machine does meets both, or spoils one turn of many.
    """
    turns = [created, inserted]
    for measure in turns:
        await measure(warm_up_s)
    ratios = []
    for number in range(rounds * TURNS):
        order = turns[::-1] if number % 2 else turns
        rates = {measure: await measure(step_s / TURNS) for measure in order}
        ratios.append(rates[created] / rates[inserted])
        say(f"creates: {rates[created]:,.0f}/s, of {rates[inserted]:,.0f} inserts/s")
    return statistics.median(ratios)


@asynccontextmanager
async def inserting(table: str, dynamodb_env: Mapping[str, str]) -> AsyncIterator[Measure]:
    """Run the process that inserts into a table; yields what measures it.

    That raises `BenchmarkError` when a row cannot be written.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmark.create_cost", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "DDB_TABLE": table, **dynamodb_env}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    output = process.stdout

    async def measure(duration_s: float) -> float:
        input_of(process).write(b"%r\n" % duration_s)
        line = await output.readline()
        if not line:
            raise BenchmarkError(f"the process that inserts ended with {await process.wait()}; see its message above")
        answer = Rate.model_validate_json(line)
        if answer.problem:
            raise BenchmarkError(f"table {table} cannot be written: {answer.problem}")
        return answer.rate

    try:
        yield measure
    finally:
        await end([process])


async def insert_for(table: Table, duration_s: float) -> float:
    """Keep `CONCURRENCY` inserts of new rows in flight for that long; the rate of them.

    Raises as `Table.insert`.
    """
    loop, nonce, numbers = asyncio.get_running_loop(), f"load-{uuid.uuid4().hex[:12]}", count()
    started_at = loop.time()

    async def one_after_another() -> int:
        written = 0
        while loop.time() < started_at + duration_s:
            texts = {contract.NAME_ATTRIBUTE: "Load", contract.CREATED_AT_ATTRIBUTE: "2024-01-23"}
            written += await table.insert(make_row(f"{nonce}-{next(numbers)}", 0, **texts))
        return written

    written = sum(await asyncio.gather(*(one_after_another() for _ in range(CONCURRENCY))))
    return written / (loop.time() - started_at)


async def serve() -> None:
    """Measure as asked, until the end of the input."""
    table = Table(os.environ["DDB_TABLE"], contract.KEY_ATTRIBUTE)
    table.open()
    lines = await further_input()
    while line := await lines.readline():
        try:
            answer = Rate(rate=await insert_for(table, float(line)))
        except Exception as error:  # whoever asked says it
            answer = Rate(problem=f"{type(error).__name__}: {error}")
        print(answer.model_dump_json(), flush=True)
        if answer.problem:
            break
    table.close()


if __name__ == "__main__":
    uvloop.run(serve())
