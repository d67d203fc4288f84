"""Run the programs whose adjustments are measured (`adjust`): a task on an engine in memory, and two on a DynamoDB that
takes a fixed time for a call, none or some milliseconds.

With a disk, each transaction takes the local engine the time of a flush: 500 in flight would wait longer than a request
may. Unlike in DynamoDB, an item costs it nearly as much as a transaction: so what one client gains by sharing a
transaction is measured on the slow DynamoDB. All calls also share its one thread: so a task's CPU, and the latency
of balances during adjustments, are measured on the one that answers at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from benchmark.cost import adjust
from benchmark.cost.adjust import AdjustCost, Latency, Measure, Measures
from benchmark.cost.bare_loop import Writes
from benchmark.cost.create import CONCURRENCY
from benchmark.cost.figures import SERVICE
from benchmark.cost.programs.programs import ADJUSTMENTS, TABLE, Bench, Program
from benchmark.load.endpoints import ADJUST, CREATE
from benchmark.load.job import ENDLESS, Closed, Loop, Open
from control_plane.desired import REGISTRAR, TELLER
from control_plane.resources import User
from service.contracts import customer as contract

AT_RANDOM: Final = 0.0
"""Every client is equally likely: requests of different people do not come in turn."""
LATE: Final = "503 UNAVAILABLE"
"""On a slow machine the engine may not be in time for all: what is late is refused, and counts as not done."""
KEYS: Final = (contract.ADJUSTMENTS_PARTITION_KEY, contract.ADJUSTMENTS_SORT_KEY)


async def measure(bench: Bench, *, in_flight: int, rounds: int, step_s: float, warm_up_s: float) -> AdjustCost:
    """Measure a task's adjustments beside the transactions alone, its creates, and its balances."""
    async with (
        bench.engine_in_memory(adjust.ROWS) as memory_env,
        bench.program(SERVICE, memory_env, account="adjustments", adjustments=ADJUSTMENTS) as on_engine,
        adjust.transacting(adjust.MANY, TABLE, ADJUSTMENTS, memory_env) as written,
        _on_fixed(bench, 0, "adjustments-alone") as (alone, _),
        _on_fixed(bench, adjust.SLOW_MS, "adjustments-one") as (slow, slow_env),
        adjust.transacting(adjust.ONE, TABLE, ADJUSTMENTS, slow_env) as written_one,
        _on_fixed(bench, 0, "adjustments-other") as (other, _),
    ):
        figures = await adjust.beside(
            Measures(
                _writing(bench, on_engine, TELLER, ADJUST, in_flight),
                written,
                _writing(bench, alone, TELLER, ADJUST, in_flight),
                _writing(bench, alone, REGISTRAR, CREATE, CONCURRENCY),
                _writing(bench, slow, TELLER, ADJUST, adjust.OF_ONE, clients=1),
                written_one,
            ),
            rounds=rounds, step_s=step_s, warm_up_s=warm_up_s, say=bench.say,
        )  # fmt: skip
        slower = await adjust.balance_beside(
            *(_balances(bench, alone, adjusting) for adjusting in (alone, other, None)),
            rounds=rounds, step_s=step_s, say=bench.say,
        )  # fmt: skip
    return AdjustCost(*figures, slower)


@asynccontextmanager
async def _on_fixed(bench: Bench, delay_ms: float, account: str) -> AsyncIterator[tuple[Program, dict[str, str]]]:
    async with (
        bench.slow_dynamodb(delay_ms, KEYS) as env,
        bench.program(SERVICE, env, account=account, adjustments=ADJUSTMENTS) as program,
    ):
        yield program, env


def _writing(
    bench: Bench, program: Program, user: User, endpoint: str, in_flight: int, clients: int = adjust.CLIENTS
) -> Measure:
    async def measured(duration_s: float) -> Writes:
        loop = Closed(requests=ENDLESS, concurrency=in_flight, duration_s=duration_s)
        found = await bench.measure(
            program.by(user), loop, endpoint, ids=clients, endpoint=endpoint, zipf=AT_RANDOM, refused=LATE
        )
        return Writes(rate=found.measured.throughput, cpu_us=found.server_cpu_us)

    return measured


def _balances(bench: Bench, program: Program, adjusting: Program | None) -> Latency:
    """Return a function that measures the program's balances while `adjusting` makes adjustments."""

    async def measured(duration_s: float) -> float:
        one: Loop = Closed(requests=ENDLESS, concurrency=1, duration_s=duration_s)
        some = Open(rate=adjust.BESIDE_PER_S, duration_s=duration_s)
        async with asyncio.TaskGroup() as tasks:
            if adjusting:
                teller = adjusting.by(TELLER)
                adjusted = bench.measure(
                    teller, some, "adjustments", endpoint=ADJUST, zipf=AT_RANDOM, shown=False, refused=LATE
                )
                tasks.create_task(adjusted)
            found = await bench.measure(program, one, "balances")
        return found.measured.latency.p50_ms

    return measured
