"""Measure a request's cost on this machine: the service beside the same design in Go, a lean echo and a baseline.

All run throughout, each in its own account of one nats-server, and are measured in turns, so that other load on the
machine affects all alike. A ratio compares two programs in one round; the result is the median over the rounds.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmark.cost import archive as archive_cost
from benchmark.cost import create as create_cost
from benchmark.cost import devices as devices_cost
from benchmark.cost import loading as load_cost
from benchmark.cost import queue as queue_cost
from benchmark.cost.adjust import IN_FLIGHT
from benchmark.cost.archive import Archived
from benchmark.cost.devices import DevicesCost
from benchmark.cost.figures import BUSY, PEER, SERVICE, VARIANTS, Round, Sample, cost_rows, requirements, scale_row
from benchmark.cost.programs import adjusting
from benchmark.cost.programs.programs import DEVICES, EVENTS, PROGRAMS, READINGS, TABLE, Bench, Program
from benchmark.cost.rounds import memory_after, memory_mib
from benchmark.load.endpoints import CREATE
from benchmark.load.job import ENDLESS, Closed
from benchmark.report import result as results
from benchmark.report.result import CostResult, Machine, ScaleRow
from control_plane.desired import REGISTRAR
from local.servers.dynamodb import create_table
from service.contracts import archive as contract
from service.contracts import devices as devices_contract


@dataclass(frozen=True)
class Profile:
    """How much to measure."""

    rounds: int
    step_s: float
    concurrencies: Sequence[int]
    tasks: Sequence[int]
    rows: Sequence[int]
    memory_after: Sequence[int]
    """Read memory after each of these totals: a task's after requests, a sidecar's after messages, and that of the role
    devices after readings.
    """
    online: int
    """Devices with a record while the role's memory is read."""
    connections: int
    loaded: int
    """Rows in the file that is loaded."""
    adjusting: int = IN_FLIGHT
    """Adjustments in flight."""
    warm_up_s: float = 1.0


FULL: Final = Profile(
    5, 3.0, (1, 100, BUSY), (1, 2, 3), (1_000, 100_000, 1_000_000), (250_000, 500_000, 750_000, 1_000_000),
    online=10_000, connections=1_000, loaded=1_000_000,
)  # fmt: skip
QUICK: Final = Profile(
    1, 1.0, (1, BUSY), (1, 2), (1_000, 10_000), (10_000, 20_000), online=100, connections=200, loaded=10_000
)  # fmt: skip


async def measure(profile: Profile, console: Console, stop: asyncio.Event) -> CostResult:
    """Run every measurement.

    Raises `BenchmarkError`, `LocalError` or `ProvisioningError` if one cannot run.
    """
    started_at = results.now()
    with tempfile.TemporaryDirectory(prefix="balance-bench-") as folder:
        bench = Bench(Path(folder), console, stop)
        async with bench.running():
            left_out = await bench.build_peer()
            names = [*PROGRAMS] if left_out else [*PROGRAMS, PEER]
            async with bench.engine(1000) as dynamodb_env:
                rounds, resident = await _side_by_side(bench, dynamodb_env, profile, names)
                scale = await _over_tasks(bench, dynamodb_env, profile)
                memory = await _memory(bench, dynamodb_env, profile)
            scale += await _over_rows(bench, profile)
            creates = await _creates(bench, profile)
            adjusted = await adjusting.measure(
                bench, in_flight=profile.adjusting, rounds=profile.rounds, step_s=profile.step_s,
                warm_up_s=profile.warm_up_s,
            )  # fmt: skip
            async with bench.sidecar() as sidecar:
                queue = await queue_cost.measure(
                    sidecar, rounds=profile.rounds, step_s=profile.step_s, totals=profile.memory_after,
                    say=bench.say,
                )  # fmt: skip
            archived = await _archive(bench, profile)
            devices = await _devices(bench, profile)
            loaded = await _loads(bench, profile)
    return CostResult(
        started_at=started_at,
        machine=Machine.this(),
        settings={"rounds": str(profile.rounds), "seconds each": f"{profile.step_s:g}"},
        rows=cost_rows(rounds, resident),
        scale=scale,
        memory=memory,
        claims=requirements(rounds, scale, memory, creates, adjusted, queue, archived, devices, loaded),
        left_out=left_out,
    )


async def _side_by_side(
    bench: Bench, dynamodb_env: dict[str, str], profile: Profile, names: Sequence[str]
) -> tuple[list[Round], dict[str, float]]:
    """Return the rounds, and each program's memory after them."""
    async with AsyncExitStack() as stack:
        programs = {name: await stack.enter_async_context(bench.program(name, dynamodb_env)) for name in names}
        for name, program in programs.items():
            await bench.measure(program, _closed(BUSY, profile.warm_up_s), f"warming up {name}")
        rounds: list[Round] = []
        for number in range(profile.rounds):
            now: Round = {}
            order = list(programs.items())
            if number % 2:
                order.reverse()
            for concurrency in profile.concurrencies:
                for name, program in order:
                    label = f"round {number + 1} of {profile.rounds}: {name}, {concurrency} in flight"
                    loop = _closed(concurrency, profile.step_s)
                    now[name, concurrency] = await bench.measure(program, loop, label)
                    for variant, frames in VARIANTS.items() if (name, concurrency) == (SERVICE, BUSY) else ():
                        now[variant, BUSY] = await bench.measure(program, loop, f"{label}, {variant}", frames=frames)
            rounds.append(now)
            bench.say(f"round {number + 1} of {profile.rounds} is measured")
        resident = {name: memory_mib(program.children[0].pid) for name, program in programs.items()}
        return rounds, resident | dict.fromkeys(VARIANTS, resident[SERVICE])


async def _over_tasks(bench: Bench, dynamodb_env: dict[str, str], profile: Profile) -> list[ScaleRow]:
    found = []
    for tasks in profile.tasks:
        async with bench.program(SERVICE, dynamodb_env, tasks) as program:
            await bench.measure(program, _closed(BUSY, profile.warm_up_s), "warming up")
            sample = await bench.measure(program, _closed(BUSY, profile.step_s), f"{tasks} tasks")
        found.append(scale_row("tasks", tasks, sample))
        bench.say(f"tasks: {tasks} measured")
    return found


async def _over_rows(bench: Bench, profile: Profile) -> list[ScaleRow]:
    """Read every row in turn, so that the engine's caches do not help more than in production."""
    async with AsyncExitStack() as stack:
        programs: dict[int, Program] = {}
        samples: dict[int, list[Sample]] = {rows: [] for rows in profile.rows}
        for rows in profile.rows:
            dynamodb_env = await stack.enter_async_context(bench.engine(rows))
            program = bench.program(SERVICE, dynamodb_env, account=f"rows-{rows}")
            programs[rows] = await stack.enter_async_context(program)
            await bench.measure(programs[rows], _closed(BUSY, profile.warm_up_s), "warming up", ids=rows)
        for _ in range(profile.rounds):
            for rows, running in programs.items():
                label = f"{rows:,} rows"
                samples[rows].append(await bench.measure(running, _closed(BUSY, profile.step_s), label, ids=rows))
        return [scale_row("rows", rows, *those) for rows, those in samples.items()]


async def _creates(bench: Bench, profile: Profile) -> float:
    """Return the rate of `customer.create` relative to bare inserts."""
    async with (
        bench.engine(1000) as dynamodb_env,
        bench.program(SERVICE, dynamodb_env, account="creates") as program,
        create_cost.inserting(TABLE, dynamodb_env) as inserted,
    ):

        async def created(duration_s: float) -> float:
            loop = _closed(create_cost.CONCURRENCY, duration_s)
            return (await bench.measure(program.by(REGISTRAR), loop, "creates", endpoint=CREATE)).measured.throughput

        return await create_cost.ratio(
            created, inserted, rounds=profile.rounds, step_s=profile.step_s, warm_up_s=profile.warm_up_s, say=bench.say
        )


async def _loads(bench: Bench, profile: Profile) -> float:
    """Return the rate of `operations.load` relative to bare BatchWriteItem."""
    async with (
        bench.engine(1) as dynamodb_env,
        load_cost.writing(load_cost.LOAD, TABLE, dynamodb_env) as loaded,
        load_cost.writing(load_cost.BARE, TABLE, dynamodb_env) as written,
    ):
        return await load_cost.ratio(loaded, written, rows=profile.loaded, say=bench.say)


async def _archive(bench: Bench, profile: Profile) -> Archived:
    """Measure a task of the archive beside a bare loop and a plain consumer, then with a slow DynamoDB."""
    keys = (contract.PARTITION_KEY, contract.SORT_KEY)
    async with bench.engine(1) as dynamodb_env:
        await create_table(EVENTS, dynamodb_env, keys)
        async with (
            bench.archive("archive", dynamodb_env) as task,
            archive_cost.archiving(task) as archived,
            bench.archive("archive-plain", dynamodb_env, "benchmark.peers.plain_archive") as plain,
            archive_cost.archiving(plain) as archived_plainly,
            archive_cost.writing(EVENTS, dynamodb_env) as written,
        ):
            rate, cpu = await archive_cost.beside(
                archived, written, archived_plainly, rounds=profile.rounds, step_s=profile.step_s, say=bench.say
            )
    async with (
        bench.slow_dynamodb(archive_cost.SLOW_MS, keys) as slow_env,
        bench.archive("archive-slow", slow_env) as task,
        archive_cost.archiving(task) as archived,
    ):
        slow = await archive_cost.busy_when_slow(archived, rounds=profile.rounds, step_s=profile.step_s, say=bench.say)
    return Archived(rate, cpu, slow)


async def _devices(bench: Bench, profile: Profile) -> DevicesCost:
    """Measure the role devices beside plain consumers, with a DynamoDB that costs next to nothing."""
    keys = (devices_contract.PARTITION_KEY, devices_contract.SORT_KEY)
    module = "benchmark.peers.bare_readings"
    async with bench.slow_dynamodb(0, keys) as dynamodb_env:
        env = {"DEVICES_TABLE": READINGS, **dynamodb_env}
        async with (
            bench.devices(DEVICES, env) as task,
            devices_cost.reading(task) as role,
            bench.devices("devices-bare", {}, module) as bare_task,
            devices_cost.reading(bare_task) as bare,
            bench.devices("devices-writing", env, module) as writing_task,
            devices_cost.reading(writing_task) as writing,
        ):
            figures = await devices_cost.beside(
                role, bare, writing, rounds=profile.rounds, step_s=profile.step_s, say=bench.say
            )
            memory = await devices_cost.memory(task, role, profile.memory_after, profile.online, bench.say)
    return DevicesCost(*figures, memory, await bench.connection_kib(profile.connections))


async def _memory(bench: Bench, dynamodb_env: dict[str, str], profile: Profile) -> list[tuple[int, float]]:
    """Return a new task's memory after growing numbers of requests."""
    async with bench.program(SERVICE, dynamodb_env) as program:

        async def work(requests: int) -> None:
            label = f"memory, {requests:,} requests more"
            await bench.measure(program, Closed(requests=requests, concurrency=BUSY), label)

        pid = program.children[0].pid
        return await memory_after(profile.memory_after, work, pid, "requests", bench.say, at_a_time=ENDLESS)


def _closed(concurrency: int, duration_s: float) -> Closed:
    return Closed(requests=ENDLESS, concurrency=concurrency, duration_s=duration_s)
