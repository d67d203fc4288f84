"""What credit costs where there is room enough: the same service beside itself, with grants that hardly ever end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import psutil
import pytest

from benchmark.load.job import Closed
from benchmark.report.measured import Measured
from tests.support.drills.drill import Drill, put_on
from tests.support.world import World, stop

pytestmark = [pytest.mark.xdist_group("drills"), pytest.mark.timeout(600)]

ROUNDS = 5
REQUESTS = 20_000
IN_FLIGHT = 500
NOISE = 0.05
TOO_BUSY = 1.25
WITH_CREDIT = "2048"
WITHOUT = "1000000"
"""A grant of 125,000 requests: more than a round sends."""


@dataclass(frozen=True)
class Figures:
    throughput: float
    cpu_us: float
    p50_ms: float
    """At one in flight."""


async def figures(world: World, max_in_flight: str) -> Figures:
    async with world.task(MAX_IN_FLIGHT=max_in_flight) as task:
        process, rows = psutil.Process(task.child.pid), world.rows()

        async def measured(count: int, concurrency: int) -> Measured:
            async with put_on(world, Closed(requests=count, concurrency=concurrency), expected=rows) as load:
                totals = await load.finish_by_itself()
            assert totals.replies == count
            return Measured.of(totals)

        await measured(REQUESTS // 4, IN_FLIGHT)
        before = process.cpu_times()
        top = await measured(REQUESTS, IN_FLIGHT)
        after = process.cpu_times()
        alone = await measured(REQUESTS // 20, 1)
        await stop(task)
    used_s = after.user + after.system - before.user - before.system
    return Figures(top.throughput, used_s / REQUESTS * 1e6, alone.latency.p50_ms)


def over(these: Sequence[Figures], those: Sequence[Figures]) -> Figures:
    """Medians of each round's ratios."""
    pairs = list(zip(these, those, strict=True))
    return Figures(
        throughput=median(this.throughput / that.throughput for this, that in pairs),
        cpu_us=median(this.cpu_us / that.cpu_us for this, that in pairs),
        p50_ms=median(this.p50_ms / that.p50_ms for this, that in pairs),
    )


@pytest.mark.drill(
    "what credit costs: rounds with it (MAX_IN_FLIGHT=2048), and twice without (1,000,000); 500 in flight, then one",
    "the same peak, CPU per request and p50 at one in flight as without, within 5 % or what the two without differ by",
)
async def test_credit_costs_nothing(world: World, drill: Drill) -> None:
    if not drill.full:
        pytest.skip("a cost is measured in full, on a machine that does nothing else")
    credit: list[Figures] = []
    plain: list[Figures] = []
    again: list[Figures] = []
    for number in range(ROUNDS):
        arms = [(plain, WITHOUT), (credit, WITH_CREDIT), (again, WITHOUT)]
        for found, max_in_flight in arms if number % 2 else reversed(arms):
            found.append(await figures(world, max_in_flight))
    ratio, noise = over(credit, plain), over(again, plain)
    drill.found(
        f"peak {median(one.throughput for one in credit):,.0f}/s, {ratio.throughput:.2f} of that without "
        f"(noise {noise.throughput:.2f}); CPU {median(one.cpu_us for one in credit):.1f} us, {ratio.cpu_us:.2f} "
        f"({noise.cpu_us:.2f}); p50 {median(one.p50_ms for one in credit):.2f} ms, {ratio.p50_ms:.2f} "
        f"({noise.p50_ms:.2f})"
    )
    bounds = [allowed(same) for same in (noise.throughput, noise.cpu_us, noise.p50_ms)]
    assert max(bounds) <= TOO_BUSY, "this machine does too much else to tell: two equal rounds differ as much"
    assert 1 / ratio.throughput <= allowed(noise.throughput)
    assert ratio.cpu_us <= allowed(noise.cpu_us)
    assert ratio.p50_ms <= allowed(noise.p50_ms)


def allowed(noise: float) -> float:
    return max(1 + NOISE, noise, 1 / noise)
