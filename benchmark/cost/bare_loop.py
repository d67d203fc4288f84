"""A bare loop of writes to a table, in a separate process like a task.

Each line of its input says how much to write, each line of its output is the result.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from pydantic import BaseModel

from benchmark.errors import BenchmarkError
from benchmark.load.generator import further_input
from benchmark.load.generators import end, input_of

TABLE: Final = "BARE_LOOP_TABLE"


class Writes(BaseModel):
    """Writes/s; CPU per write, if measured; or why writing failed."""

    rate: float = 0.0
    cpu_us: float = 0.0
    problem: str | None = None


@asynccontextmanager
async def bare_loop(
    module: str, table: str, dynamodb_env: Mapping[str, str], *arguments: str
) -> AsyncIterator[Callable[[float], Awaitable[Writes]]]:
    """Run the process; yield a function that makes it write.

    The function raises `BenchmarkError` if a row cannot be written.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), TABLE: table, **dynamodb_env}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    output = process.stdout

    async def measure(amount: float) -> Writes:
        input_of(process).write(b"%r\n" % amount)
        line = await output.readline()
        if not line:
            raise BenchmarkError(f"the process that writes ended with {await process.wait()}; see its message above")
        answer = Writes.model_validate_json(line)
        if answer.problem:
            raise BenchmarkError(f"table {table} cannot be written: {answer.problem}")
        return answer

    try:
        yield measure
    finally:
        await end([process])


async def serve(write: Callable[[str], Awaitable[Writes]]) -> None:
    """Run in that process: call `write` with each line of input, until the input ends."""
    lines = await further_input()
    while line := await lines.readline():
        try:
            answer = await write(line.decode())
        except Exception as error:  # the parent process reports it
            answer = Writes(problem=f"{type(error).__name__}: {error}")
        print(answer.model_dump_json(), flush=True)
        if answer.problem:
            break
