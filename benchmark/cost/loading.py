"""Measure `operations.load`: its rows/s from a file, relative to a bare loop of BatchWriteItem with the same client.

Each runs in its own process: `python -m benchmark.cost.loading load`, or `bare`. Each line of its input is a number of
rows, each line of its output the resulting `Writes`. The time includes everything that a load does: the check of the
file, reading it again, the conditions, the checkpoint. The bare loop has its rows ready, and overwrites existing rows.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import orjson
import uvloop

from benchmark.cost.archive import write_rows
from benchmark.cost.bare_loop import TABLE, Writes, bare_loop, serve
from benchmark.cost.draining import Measure
from benchmark.errors import BenchmarkError
from operations.load.run import Plan, load
from operations.load.show import Report
from operations.load.source import File
from service.contracts import customer as contract
from service.customer.store.rows import make_row
from service.dynamodb.client import DynamoDB
from service.dynamodb.writer import Timing

LOAD: Final = "load"
BARE: Final = "bare"
SLICES: Final = 10
"""Parts into which the bare writes are split, whose rows are ready in memory."""
WARM_UP: Final = 2_000


def writing(what: str, table: str, dynamodb_env: Mapping[str, str]) -> AbstractAsyncContextManager[Measure]:
    """Run the process `what`; yield a function that makes it write a number of new rows."""
    return bare_loop("benchmark.cost.loading", table, dynamodb_env, what)


async def ratio(loaded: Measure, written: Measure, *, rows: int, say: Callable[[str], None]) -> float:
    """Load a file of `rows` rows; return its rate relative to as many bare writes: half before it, half after it.

    One file, not many small ones: what grows with a load shows only there. Two halves, because a machine's rate drifts.
    """
    for measure in (loaded, written):
        await measure(min(rows, WARM_UP))
    half = [rows // SLICES] * (SLICES // 2)
    before = [await written(count) for count in half]
    ours = await loaded(rows)
    after = [await written(count) for count in half]
    bare = statistics.harmonic_mean([each.rate for each in (*before, *after)])
    say(f"load: {ours.rate:,.0f} rows/s of {rows:,}, of {bare:,.0f} of bare writes")
    return ours.rate / bare


def file_of(rows: int, first: int, folder: Path) -> Path:
    """Write a file of new clients, each with a name and a date, like most rows."""
    path = folder / f"{first}.csv"
    lines = (f"{client_id},{balance},Ann Example,2024-01-23\n" for client_id, balance in _rows(rows, first))
    path.write_text("".join(["client_id,balance,name,created_at\n", *lines]))
    return path


def _rows(count: int, first: int) -> list[tuple[str, int]]:
    return [(f"{os.getpid()}-{number}", 100 + number % 9_900) for number in range(first, first + count)]


async def main(what: str) -> None:
    """Write as each line of input says, until the input ends."""
    numbers = itertools.count(step=1_000_000_000)
    table = os.environ[TABLE]

    async def loaded(count: str) -> Writes:
        with tempfile.TemporaryDirectory() as folder:
            path = file_of(int(count), next(numbers), Path(folder))
            plan = Plan(table, contract.ATTRIBUTES, replace=False, checkpoint=Path(folder) / "kept", seed_flag=False)
            began = time.perf_counter()
            outcome = await load(File(path), plan, Report(as_json=True))
            elapsed_s = time.perf_counter() - began
        if outcome.done.written != int(count):
            raise BenchmarkError(f"{outcome.done.written:,} of {count} rows were written")
        return Writes(rate=int(count) / elapsed_s)

    async def written(count: str) -> Writes:
        texts = {contract.NAME_ATTRIBUTE: "Ann Example", contract.CREATED_AT_ATTRIBUTE: "2024-01-23"}
        made = [orjson.dumps(make_row(*each, texts)) for each in _rows(int(count), next(numbers))]
        began = time.perf_counter()
        await write_rows(api, table, made)
        return Writes(rate=int(count) / (time.perf_counter() - began))

    api = DynamoDB.configured(Timing().call_timeout_s)
    try:
        await serve(loaded if what == LOAD else written)
    finally:
        api.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
