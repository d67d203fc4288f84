"""Drills on overload of the CPU: tasks bounded as Fargate bounds them, and more requests than they can answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmark.load.job import Closed, Open
from benchmark.load.loops import TIMEOUT
from benchmark.load.transport import NO_RESPONDERS
from benchmark.report.measured import Measured
from tests.support.drills.drill import Drill, answered, bounds, put_on, stored, words
from tests.support.own_servers import own_cluster
from tests.support.world import World, eventually, metric, stop

pytestmark = [pytest.mark.xdist_group("drills"), pytest.mark.timeout(600)]

PATIENCE_S = 1.0
"""How long a requester waits."""
VCPU = 0.15
"""Four times what a larger task answers is more than generator and servers can do on two cores."""


async def peak(world: World, requests: int, concurrency: int) -> Measured:
    """What a closed loop gets, after a warm-up."""
    rows = world.rows()
    async with put_on(world, Closed(requests=requests // 4, concurrency=concurrency), expected=rows) as load:
        await load.finish_by_itself()
    async with put_on(world, Closed(requests=requests, concurrency=concurrency), expected=rows) as load:
        return Measured.of(await load.finish_by_itself())


@pytest.mark.drill(
    "overload of the CPU: a task bounded to 0.15 vCPU, offered 1, 2 and 4 times what a closed loop gets",
    "goodput at least 90 % of that, p99 of what is answered at 4 times at most 0.5 s, nothing answered after its "
    "requester gave up (1 s), the rest told `no responders`",
)
async def test_overload_of_the_cpu(world: World, drill: Drill) -> None:
    if not drill.full:
        pytest.skip("it measures the machine, which other tests share: make drill")
    times, duration_s, least = (1, 2, 4), 20.0, 0.9
    async with world.bounded(VCPU).task() as task:
        top = await peak(world, 40_000, 200)
        found, late, goodputs, p99_ms = [f"peak {top.throughput:,.0f}/s"], 0, [], 0.0
        for factor in times:
            before = await answered(task)
            flood = Open(rate=factor * top.throughput, duration_s=duration_s)
            async with put_on(world, flood, timeout_s=PATIENCE_S, frames="plain") as load:
                totals = await load.finish_by_itself()
            measured = Measured.of(totals)
            late += await answered(task) - before - totals.replies
            goodputs.append(totals.replies / duration_s / top.throughput)
            p99_ms = measured.latency.p99_ms
            sender = measured.generators
            found.append(
                f"{factor} x: {goodputs[-1]:.0%}, p99 {p99_ms:.0f} ms, {words(totals.errors)} (sent late: "
                f"{sender.late / totals.sent:.0%}, CPU of the sender {sender.cpu_share:.0%})"
            )
            assert totals.errors.keys() <= {NO_RESPONDERS, TIMEOUT}
        drill.found("; ".join([*found, f"{late} answered too late"]) + bounds(task))
        await stop(task)
    assert min(goodputs) >= least
    assert p99_ms <= 500
    assert late == 0


@pytest.mark.drill(
    "two tasks, one with a fifth of the other's CPU (0.06 and 0.3 vCPU), offered 80 % of what both can do",
    "at least 99 % answered in time (1 s)",
)
async def test_an_unequal_pair(world: World, drill: Drill) -> None:
    if not drill.full:
        pytest.skip("it measures the machine, which other tests share: make drill")
    small, large = 0.06, 0.3
    requests, duration_s = 20_000, 20.0
    together = 0.0
    for vcpu in (small, large):
        async with world.bounded(vcpu).task() as alone:
            together += (await peak(world, requests if vcpu == large else requests // 5, 200)).throughput
            await stop(alone)
    async with world.bounded(small).task() as weak, world.bounded(large).task() as strong:
        rows = world.rows()
        offered = Open(rate=0.8 * together, duration_s=duration_s)
        async with put_on(world, offered, timeout_s=PATIENCE_S, expected=rows) as load:
            totals = await load.finish_by_itself()
        shares = [await answered(task) for task in (weak, strong)]
        in_time = totals.replies / totals.sent
        drill.found(
            f"{offered.rate:,.0f}/s of {together:,.0f}: {in_time:.1%} in time, {words(totals.errors)}; "
            f"{shares[0]:,} by the weak one, {shares[1]:,} by the strong one{bounds(weak, strong)}"
        )
        await stop(weak, strong)
    assert in_time >= 0.99


@pytest.mark.drill(
    "a lame-duck server: every client is asked to leave for another node of the cluster, under load",
    "the task serves again from another node; every reply's event is stored",
)
async def test_lame_duck(world: World, drill: Drill, tmp_path: Path) -> None:
    if not drill.full:
        pytest.skip("a server takes half a minute to leave")
    async with own_cluster(world, tmp_path / "cluster") as (own, cluster):
        nodes = own.nats_url.split(",")
        asking, leaving = own.at(nodes[2]), own.at(nodes[0])
        async with leaving.task() as task:
            rate = Open(rate=1000.0, duration_s=3600)
            async with put_on(asking, rate, timeout_s=PATIENCE_S, expected=own.rows()) as load:
                await load.more(1000)
                cluster.ask_to_leave(0)

                async def moved() -> bool:
                    return await metric(task, "balance_nats_reconnects_total") == 1

                await eventually(moved, within_s=60, what="the task on another node")
                await load.more(1000)
                totals = await load.finish()
            answers = await answered(task)
            await stop(task)
        drill.found(f"{totals.sent:,} requests, {words(totals.errors)}; {answers:,} answers")
        await stored(asking, answers)
    assert totals.errors.total() < 0.05 * totals.sent


async def test_a_tasks_cpu_is_bounded_where_it_can_be(world: World) -> None:
    async with world.bounded(0.5).launch() as task:
        groups = await asyncio.to_thread(Path(f"/proc/{task.child.pid}/cgroup").read_text)
        assert ("customer-balance" in groups) == task.is_bounded
