"""The drill on scaling: more load than one task can answer, tasks added and removed by the rules that are deployed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from benchmark.load.job import Closed, Open
from benchmark.load.loops import TIMEOUT
from benchmark.load.transport import NO_RESPONDERS
from benchmark.report.measured import Measured
from local.scaling.autoscale import Autoscaler
from local.scaling.target_tracking import Rules
from tests.support.drills.drill import FOREVER_S, Drill, put_on, traffic, words
from tests.support.drills.scaling import Record, draw, table
from tests.support.world import World, eventually, stop

pytestmark = [pytest.mark.xdist_group("drills"), pytest.mark.timeout(600)]

VCPU = 0.1
MAX_TASKS = 4
SPEED = 30.0
"""A minute of AWS's takes two seconds."""
PATIENCE_S = 1.0
P99_MS = 250.0
"""A task that has used up its tenth of the CPU rests for as much as 90 ms of every 100."""
BEFORE, MORE = 0.01, 1.49
"""Of one task's peak. Waking up for a request that comes alone costs six times the CPU of one among many."""
CALM_S = 5


async def peak(world: World) -> float:
    """What one task answers to a closed loop, after a warm-up. With 100 in flight it is less than it can answer."""
    async with world.bounded(VCPU).task() as task:
        for duration_s in (2.0, 6.0):
            loop = Closed(requests=1 << 30, concurrency=500, duration_s=duration_s)
            async with put_on(world, loop, expected=world.rows()) as load:
                measured = Measured.of(await load.finish_by_itself())
        await stop(task)
    return measured.throughput


@asynccontextmanager
async def autoscaled(world: World) -> AsyncIterator[tuple[Autoscaler, list[str]]]:
    """One task, and as many more as the deployed targets and cool-downs ask for."""
    said: list[str] = []
    rules = replace(Rules.deployed(), min_tasks=1, max_tasks=MAX_TASKS, vcpu=VCPU)
    scaler = Autoscaler(rules, world.service_env(), world.folder, speed=SPEED, say=said.append)
    running = asyncio.create_task(scaler.run())
    try:
        await eventually(lambda: bool(scaler.tasks) or running.done(), within_s=60, what="the first task")
        yield scaler, said
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert running.cancelled(), running.exception()


@pytest.mark.drill(
    "scaling: one task of 0.1 vCPU at 0.01 times its peak, then at 1.5 times, then at 0.01 again; the targets and "
    "cool-downs of deploy/settings.toml, 1 to 4 tasks, a minute of AWS's in 2 s",
    "tasks are added until everything is answered and p99 is below 250 ms for 5 s; then they drain and go, with no "
    "failed request; every reply's event is stored",
)
async def test_scaling(world: World, drill: Drill, pytestconfig: pytest.Config) -> None:
    if not drill.full:
        pytest.skip("tasks of a tenth of a CPU take their time to start, and fifteen low readings half a minute")
    top = await peak(world)
    stored_before = await world.last_sequence()
    async with autoscaled(world) as (scaler, said):
        record = Record(tasks=lambda: len(scaler.tasks))
        rows = world.rows()
        async with record.kept(), traffic(world, BEFORE * top, timeout_s=PATIENCE_S, expected=rows) as base:
            record.loads.append(base)
            try:
                await eventually(lambda: record.calm(5, P99_MS), within_s=60, what="a calm start with one task")
                started, seen = time.monotonic(), len(record.moments)
                flood = Open(rate=MORE * top, duration_s=FOREVER_S)
                async with put_on(world, flood, timeout_s=PATIENCE_S, expected=rows) as surge:
                    record.loads.append(surge)
                    await eventually(
                        lambda: len(scaler.tasks) > 1 and record.calm(CALM_S, P99_MS),
                        within_s=90,
                        what=f"p99 below {P99_MS:g} ms",
                    )
                    calm_s, most = time.monotonic() - started - CALM_S, len(scaler.tasks)
                    worst_ms = max(moment.p99_ms for moment in record.moments[seen:])
                    record.loads.remove(surge)
                    flooded = await surge.finish()
                fell, sent = time.monotonic(), base.totals.sent
                # What was on its way when the load fell waits behind the flood's requests: it belongs to the flood.
                await eventually(
                    lambda: base.totals.sent > sent and not base.totals.in_flight, what="the end of what was on its way"
                )
                failed_before = base.totals.errors.total()
                await eventually(lambda: len(scaler.tasks) == 1, within_s=60, what="one task again")
                gone_s = time.monotonic() - fell
                drained = "drained and ended with 0"
                await eventually(
                    lambda: sum(drained in line for line in said) == most - 1, within_s=30, what="the tasks' end"
                )
                await eventually(lambda: record.moments[-1].tasks == 1, what="a moment with one task again")
                totals = await base.finish()
            finally:
                drill.found(f"peak of one task {top:,.0f}/s")
                print("\n".join([table(record.moments, 3), *said]))
                if path := pytestconfig.getoption("--scaling-chart"):
                    draw(record.moments, path)
    errors = totals.errors + flooded.errors
    replies = totals.replies + flooded.replies
    lost = totals.errors.total() - failed_before
    events = await world.last_sequence() - stored_before
    drill.found(
        f"{(BEFORE + MORE) * top:,.0f}/s: p99 {worst_ms:,.0f} ms at worst, below {P99_MS:g} ms from {calm_s:.0f} s on, "
        f"with {most} tasks; {words(errors)} of {totals.sent + flooded.sent:,}; one task again {gone_s:.0f} s after "
        f"the load fell, {lost} failed since; {replies:,} replies, {events:,} events"
    )
    assert errors.keys() <= {NO_RESPONDERS, TIMEOUT}
    assert worst_ms > P99_MS or errors, "the load was none too much for one task"
    assert lost == 0
    assert events >= replies
