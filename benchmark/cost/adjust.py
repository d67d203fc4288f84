"""Measure `customer.adjust` beside its transactions, beside `customer.create`, and beside `customer.balance`.

The transactions alone are those of `Ledger`, one adjustment each, in a separate process like a task: with the same
client library, event loop and engine, but adjusting other clients. `python -m benchmark.cost.adjust many TABLE`, or
`one TABLE`, is such a process: it keeps as many transactions in flight as a task does, or one. Each line of its input
is a number of seconds, each line of its output the resulting `Writes`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import uvloop

from benchmark.cost.bare_loop import TABLE, Writes, bare_loop, serve
from benchmark.errors import BenchmarkError
from service.customer.ledger.decide import Entry, State
from service.customer.ledger.tables import Ledger
from service.customer.ledger.tills import CONCURRENT
from service.dynamodb.table import DEADLINE_S

CLIENTS: Final = 1_000
"""Clients of the service's load: "1" to this number."""
IN_FLIGHT: Final = 500
"""Adjustments of the service's load."""
OF_ONE: Final = 100
"""Adjustments in flight when there is one client."""
BESIDE_PER_S: Final = 200
ROWS: Final = 2 * CLIENTS
"""Rows of the table: the service's clients, and as many again for the transactions alone."""
SLOW_MS: Final = 8.0
"""Time of a call when one client is adjusted: both programs may use client "1", because nothing is stored."""
AT: Final = "2026-11-30T10:49:02.966Z"
MANY: Final = "many"
ONE: Final = "one"

Measure = Callable[[float], Awaitable[Writes]]
"""Seconds -> result of writing for that long."""
Latency = Callable[[float], Awaitable[float]]
"""Seconds -> p50 of `customer.balance` in that time, in milliseconds."""


@dataclass(frozen=True)
class AdjustCost:
    """Medians of the rounds' ratios."""

    of_transactions: float
    """Adjustments/s, relative to the transactions alone."""
    one_client: float
    """Adjustments/s of one client, relative to one transaction at a time."""
    cpu_over_create: float
    balance_beside: float
    """p50 of `customer.balance` during the task's own adjustments, relative to during another task's.

    Relative to no adjustments, the figure would be the machine's: on two cores they delay a lone request whichever task
    makes them.
    """


@dataclass(frozen=True)
class Measures:
    """Measurements that take turns."""

    adjusted: Measure
    written: Measure
    adjusted_alone: Measure
    """With a DynamoDB that answers at once, so that the CPU is the task's own and not spent waiting for an engine."""
    created_alone: Measure
    adjusted_one: Measure
    written_one: Measure


def transacting(
    what: str, table: str, adjustments: str, dynamodb_env: Mapping[str, str]
) -> AbstractAsyncContextManager[Measure]:
    """Run the process `what`; yield a function that makes it write for a time."""
    return bare_loop("benchmark.cost.adjust", table, dynamodb_env, what, adjustments)


async def beside(
    measures: Measures, *, rounds: int, step_s: float, warm_up_s: float, say: Callable[[str], None]
) -> tuple[float, float, float]:
    """Return the medians of `of_transactions`, `one_client` and `cpu_over_create`."""
    each = (
        measures.adjusted, measures.written, measures.adjusted_alone, measures.created_alone, measures.adjusted_one,
        measures.written_one,
    )  # fmt: skip
    for measure in each:
        await measure(warm_up_s)
    of_transactions, one_client, cpus = [], [], []
    for number in range(rounds):
        found = {measure: await measure(step_s) for measure in (each[::-1] if number % 2 else each)}
        many, bare, adjust, create, one, bare_one = (found[measure] for measure in each)
        of_transactions.append(many.rate / bare.rate)
        one_client.append(one.rate / bare_one.rate)
        cpus.append(adjust.cpu_us / create.cpu_us)
        say(
            f"adjustments: {many.rate:,.0f}/s, of {bare.rate:,.0f} transactions/s; of one client {one.rate:,.0f}/s, "
            f"over {bare_one.rate:,.0f}; {adjust.cpu_us:.0f} us of CPU, a create {create.cpu_us:.0f} us"
        )
    return statistics.median(of_transactions), statistics.median(one_client), statistics.median(cpus)


async def balance_beside(
    own: Latency, others: Latency, without: Latency, *, rounds: int, step_s: float, say: Callable[[str], None]
) -> float:
    """Return the median of the p50 ratios, of `own` to `others`; `without` is only shown."""
    ratios = []
    for number in range(rounds):
        order = (own, others, without) if number % 2 else (without, others, own)
        found = {measure: await measure(step_s) for measure in order}
        ratios.append(found[own] / found[others])
        say(
            f"balances: p50 {found[own]:.2f} ms beside {BESIDE_PER_S} adjustments/s, {found[others]:.2f} ms beside "
            f"another task's, {found[without]:.2f} ms without"
        )
    return statistics.median(ratios)


async def states(ledger: Ledger, clients: Sequence[str]) -> dict[str, State]:
    """Read the clients. Raises `BenchmarkError` for one that cannot be adjusted."""
    loop, found = asyncio.get_running_loop(), dict[str, State]()
    for client_id in clients:
        state, _ = await ledger.read(client_id, ["none"], loop.time() + DEADLINE_S)
        if not isinstance(state, State):
            raise BenchmarkError(f"client {client_id}: {state or 'no such client'}")
        found[client_id] = state
    return found


async def transact_for(ledger: Ledger, known: dict[str, State], in_flight: int, duration_s: float) -> float:
    """Keep that many transactions in flight, of different clients; return their rate. Raises what `write` raises."""
    loop, clients = asyncio.get_running_loop(), [*known]
    began_at = loop.time()

    async def one_after_another(mine: Sequence[str]) -> int:
        written = 0
        for client_id in cycle(mine):
            if loop.time() >= began_at + duration_s:
                break
            before = known[client_id]
            entry = Entry(uuid.uuid4().hex, 1, before.balance + 1, before.count + 1, None, AT)
            await ledger.write(ledger.transaction(client_id, before, [entry]), 1, loop.time() + DEADLINE_S)
            known[client_id] = State(entry.balance, entry.sequence)
            written += 1
        return written

    written = sum(await asyncio.gather(*(one_after_another(clients[each::in_flight]) for each in range(in_flight))))
    return written / (loop.time() - began_at)


async def main(what: str, adjustments: str) -> None:
    """Write as each line of input says, until the input ends."""
    ledger = Ledger(os.environ[TABLE], adjustments)
    ledger.open()
    numbers, in_flight = (range(CLIENTS + 1, ROWS + 1), CONCURRENT) if what == MANY else (range(1, 2), 1)
    known = dict[str, State]()

    async def write(seconds: str) -> Writes:
        if not known:
            known.update(await states(ledger, [str(number) for number in numbers]))
        return Writes(rate=await transact_for(ledger, known, in_flight, float(seconds)))

    try:
        await serve(write)
    finally:
        ledger.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
