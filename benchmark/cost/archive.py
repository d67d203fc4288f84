"""Measure the archive: a task's rows/s relative to a bare loop of BatchWriteItem with the same client, and its CPU per
row relative to a plain consumer (`plain_archive`), which no change of ours makes cheaper.

The bare loop is a separate process, as a task is. `python -m benchmark.cost.archive` is that process: each line of its
input is a number of rows, each line of its output the resulting `Writes`. A task's turn begins with as many events in
the stream: it is stopped (SIGSTOP) while they pile up.
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
from benchmark.cost.draining import CHUNK, Measure, connected, draining
from benchmark.errors import BenchmarkError
from local.process import Child
from service.contracts import archive as contract
from service.contracts import customer
from service.contracts.stream import EVENT_PREFIX
from service.dynamodb.client import DynamoDB
from service.dynamodb.writer import CALL_TIMEOUT_S, MAX_ITEMS
from service.nats.client import NatsClient, header_block
from service.nats.connection import roundtrip
from service.nats.jetstream import backlog
from service.writing.archiver import BATCHES

ROWS_PER_S: Final = 8_000
PLAIN_ROWS_PER_S: Final = 1_000
SLOW_ROWS_PER_S: Final = 30_000
"""Rows per second of a step: a turn is a fixed number of rows, so that none is left for the next turn."""
SLOW_MS: Final = 8.0


@dataclass(frozen=True)
class Task:
    """A task of the archive, and credentials to write to its stream and to read its consumer."""

    child: Child
    nats_url: str
    writer_creds: str
    reader_creds: str


@dataclass(frozen=True)
class Archived:
    rate_of_writes: float
    """Rows/s of a task, relative to the bare loop."""
    cpu_over_plain: float
    """CPU per row, relative to a plain consumer."""
    slow_rows: float
    """Rows/s with a DynamoDB that takes `SLOW_MS` per call."""


async def beside(
    archived: Measure, written: Measure, plain: Measure, *, rounds: int, step_s: float, say: Callable[[str], None]
) -> tuple[float, float]:
    """Measure all three in turns; return the medians of rate over the bare loop's and CPU over the plain consumer's."""
    turns = [(archived, ROWS_PER_S), (written, ROWS_PER_S), (plain, PLAIN_ROWS_PER_S)]
    for measure, rows_per_s in turns:
        await measure(min(CHUNK, int(step_s * rows_per_s)))
    rates, cpus = [], []
    for number in range(rounds):
        order = turns[::-1] if number % 2 else turns
        found = {measure: await measure(int(step_s * rows_per_s)) for measure, rows_per_s in order}
        ours, theirs = found[archived], found[plain]
        rates.append(ours.rate / found[written].rate)
        cpus.append(ours.cpu_us / theirs.cpu_us)
        say(
            f"archive: {ours.rate:,.0f} rows/s at {ours.cpu_us:.1f} us of CPU, of {found[written].rate:,.0f} of bare "
            f"writes; a plain consumer's at {theirs.cpu_us:.1f} us"
        )
    return statistics.median(rates), statistics.median(cpus)


async def slow_rows(archived: Measure, *, rounds: int, step_s: float, say: Callable[[str], None]) -> float:
    """Return the median rows/s of the rounds, with a slow DynamoDB."""
    count = int(step_s * SLOW_ROWS_PER_S)
    await archived(min(CHUNK, count))
    rates = []
    for _ in range(rounds):
        found = await archived(count)
        rates.append(found.rate)
        say(f"archive: {found.rate:,.0f} rows/s at {found.cpu_us:.1f} us, where a call takes {SLOW_MS:g} ms")
    return statistics.median(rates)


@asynccontextmanager
async def archiving(task: Task) -> AsyncIterator[Measure]:
    """Yield a function that has the task archive events; it raises `BenchmarkError` when that does not end."""
    async with (
        connected(task.nats_url, task.writer_creds, customer.INBOX_PREFIX) as writer,
        connected(task.nats_url, task.reader_creds, contract.INBOX_PREFIX) as reader,
    ):
        yield draining(task.child, partial(_publish, writer), partial(_backlog, reader.jetstream()))


def writing(table: str, dynamodb_env: Mapping[str, str]) -> AbstractAsyncContextManager[Measure]:
    """Run the process of the bare loop; yield a function that has it write a number of rows."""
    return bare_loop("benchmark.cost.archive", table, dynamodb_env)


async def _publish(nc: NatsClient, count: int) -> None:
    nonce = uuid.uuid4().hex[:8]
    for number in range(count):
        headers = header_block({"Nats-Msg-Id": f"{nonce}.{number}"})
        nc.post(f"{EVENT_PREFIX}{number % 1000}", b'{"balance":%d}' % (100 + number % 9_900), headers=headers)
        if number % CHUNK == 0:
            await roundtrip(nc)
    await roundtrip(nc)


async def _backlog(jetstream: JetStreamContext) -> int:
    info = await jetstream.consumer_info(contract.STREAM, contract.CONSUMER)
    return backlog(info)


def make_rows(count: int) -> list[bytes]:
    """Make encoded rows like those of a task."""
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
    api = DynamoDB.configured(CALL_TIMEOUT_S)

    async def write(count: str) -> Writes:
        return await _timed(api, os.environ[TABLE], int(count))

    try:
        await serve(write)
    finally:
        api.close()


if __name__ == "__main__":
    uvloop.run(main())
