"""Measure the archive: a task's rows/s relative to a bare loop of BatchWriteItem with the same client, and its CPU per
row relative to a plain consumer (`plain_archive`), which no change of ours makes cheaper.

The bare loop is a separate process, like a task. `python -m benchmark.cost.archive` is that process: each line of its
input is a number of rows, each line of its output the resulting `Writes`. A task's turn begins with as many events in
the stream: the task is stopped (SIGSTOP) while they pile up.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import orjson
import uvloop
from nats.js import JetStreamContext

from benchmark.cost.bare_loop import TABLE, Writes, bare_loop, serve
from benchmark.cost.draining import CHUNK, Measure, draining, post_all
from benchmark.cost.rounds import in_turns
from benchmark.errors import BenchmarkError
from benchmark.load.job import NatsTarget
from benchmark.load.transport import connected
from local.process import Child
from service.contracts import archive as contract
from service.contracts.stream import EVENT_PREFIX
from service.dynamodb.client import DynamoDB
from service.dynamodb.writer import MAX_ITEMS, Timing
from service.nats.client import NatsClient, header_block
from service.nats.jetstream import backlog
from service.writing.archiver import BATCHES

ROWS_PER_S: Final = 8_000
PLAIN_ROWS_PER_S: Final = 1_000
SLOW_ROWS_PER_S: Final = 30_000
"""Rows per second of a step: a turn is a fixed number of rows, so that none is left for the next turn."""
SLOW_MS: Final = 8.0


@dataclass(frozen=True)
class Task:
    """A task of the archive, and the users that write to its stream and read its consumer."""

    child: Child
    writer: NatsTarget
    reader: NatsTarget


@dataclass(frozen=True)
class Archived:
    rate_of_writes: float
    """Rows/s of a task, relative to the bare loop."""
    cpu_over_plain: float
    """CPU per row, relative to a plain consumer."""
    slow_busy: float
    """Share of a core that a task uses with a DynamoDB that takes `SLOW_MS` per call; the rest is waiting."""


async def beside(
    archived: Measure, written: Measure, plain: Measure, *, rounds: int, step_s: float, say: Callable[[str], None]
) -> tuple[float, float]:
    """Measure all three in turns; return the median ratios: rate to the bare loop, CPU to the plain consumer."""
    counts = {archived: step_s * ROWS_PER_S, written: step_s * ROWS_PER_S, plain: step_s * PLAIN_ROWS_PER_S}
    for measure, count in counts.items():
        await measure(min(CHUNK, int(count)))
    rates, cpus = [], []
    turns = [partial(measure, int(count)) for measure, count in counts.items()]
    async for ours, bare, theirs in in_turns(turns, rounds):
        rates.append(ours.rate / bare.rate)
        cpus.append(ours.cpu_us / theirs.cpu_us)
        say(
            f"archive: {ours.rate:,.0f} rows/s at {ours.cpu_us:.1f} us of CPU, of {bare.rate:,.0f} of bare "
            f"writes; a plain consumer's at {theirs.cpu_us:.1f} us"
        )
    return statistics.median(rates), statistics.median(cpus)


async def busy_when_slow(archived: Measure, *, rounds: int, step_s: float, say: Callable[[str], None]) -> float:
    """Return the median share of a core that the task uses with a slow DynamoDB."""
    count = int(step_s * SLOW_ROWS_PER_S)
    await archived(min(CHUNK, count))
    shares = []
    for _ in range(rounds):
        found = await archived(count)
        shares.append(found.rate * found.cpu_us / 1e6)
        say(f"archive: {found.rate:,.0f} rows/s at {found.cpu_us:.1f} us, where a call takes {SLOW_MS:g} ms")
    return statistics.median(shares)


@asynccontextmanager
async def archiving(task: Task) -> AsyncIterator[Measure]:
    """Yield a function that makes the task archive events; it raises `BenchmarkError` if that does not end."""
    async with connected(task.writer) as writer, connected(task.reader) as reader:
        yield draining(task.child, partial(_publish, writer), partial(_backlog, reader.jetstream()))


def writing(table: str, dynamodb_env: Mapping[str, str]) -> AbstractAsyncContextManager[Measure]:
    """Run the process of the bare loop; yield a function that makes it write a number of rows."""
    return bare_loop("benchmark.cost.archive", table, dynamodb_env)


async def _publish(nc: NatsClient, count: int) -> None:
    nonce = uuid.uuid4().hex[:8]

    def post(number: int) -> None:
        headers = header_block({"Nats-Msg-Id": f"{nonce}.{number}"})
        nc.post(f"{EVENT_PREFIX}{number % 1000}", b'{"balance":%d}' % (100 + number % 9_900), headers=headers)

    await post_all(nc, count, post)


async def _backlog(jetstream: JetStreamContext) -> int:
    info = await jetstream.consumer_info(contract.STREAM, contract.CONSUMER)
    return backlog(info)


def make_rows(count: int) -> list[bytes]:
    """Make encoded rows like a task's."""
    nonce, at = uuid.uuid4().hex[:8], "2026-11-25T06:23:29.123456789Z"
    rows = (
        {
            contract.PARTITION_KEY: {"S": str(number % 1000)},
            contract.SORT_KEY: {"S": f"{at}#{nonce}{number}"},
            "event_time": {"S": at},
            "archived_at": {"S": at},
            "host": {"S": "customer-balance:12345"},
            "body": {"S": '{"balance":7120}'},
            "sequence": {"N": str(number)},
            "balance": {"N": "7120"},
            "Nats-Msg-Id": {"S": f"{nonce}.{number}"},
        }
        for number in range(count)
    )
    return [orjson.dumps(row) for row in rows]


async def write_rows(api: DynamoDB, table: str, rows: list[bytes]) -> None:
    """Write rows with as many calls in flight as a task has."""
    starts = iter(range(0, len(rows), MAX_ITEMS))

    async def one_after_another() -> None:
        for start in starts:
            puts = [{"PutRequest": {"Item": orjson.Fragment(row)}} for row in rows[start : start + MAX_ITEMS]]
            answer = await api.call("BatchWriteItem", {"RequestItems": {table: puts}})
            if answer["UnprocessedItems"]:
                raise BenchmarkError("rows were left")

    await asyncio.gather(*(one_after_another() for _ in range(BATCHES)))


async def _timed(api: DynamoDB, table: str, count: int) -> Writes:
    rows = make_rows(count)
    began = time.perf_counter()
    await write_rows(api, table, rows)
    return Writes(rate=count / (time.perf_counter() - began))


async def main() -> None:
    """Write as each line of input says, until the input ends."""
    api = DynamoDB.configured(Timing().call_timeout_s)

    async def write(count: str) -> Writes:
        return await _timed(api, os.environ[TABLE], int(count))

    try:
        await serve(write)
    finally:
        api.close()


if __name__ == "__main__":
    uvloop.run(main())
