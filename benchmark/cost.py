"""What one request costs on this machine: the service beside an echo (the ceiling) and beside a simple baseline.

All three run the whole time, each in its own account of one nats-server, and are measured in turns. So what else the
machine does affects all alike. A ratio compares two programs in one round; the result is the median of the rounds.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console

from benchmark import result as results
from benchmark.cost_figures import BASELINE, BUSY, ECHO, SERVICE, Round, Sample, cost_rows, requirements, scale_row
from benchmark.errors import BenchmarkError
from benchmark.instances import statistics
from benchmark.job import Closed, Loop, NatsTarget
from benchmark.plan import Plan, one_load
from benchmark.result import CostResult, Machine, Measured, ScaleRow
from benchmark.transport import connected
from control_plane.files import Files
from local.dynamodb import dynamodb, environment, imported
from local.nats_server import nats_server
from local.process import Child, claim_port
from local.state import State
from local.system import provision, service_env, service_task

PROGRAMS: Final = {ECHO: "benchmark.echo", SERVICE: "service", BASELINE: "benchmark.baseline"}
TABLE: Final = "balances"
_ENDLESS: Final = 1 << 40


@dataclass(frozen=True)
class Profile:
    """How much is measured."""

    rounds: int
    step_s: float
    concurrencies: Sequence[int]
    tasks: Sequence[int]
    rows: Sequence[int]
    memory_after: Sequence[int]
    """The memory of a task is read after each of these numbers of requests."""
    warm_up_s: float = 1.0


FULL: Final = Profile(
    5, 3.0, (1, 100, BUSY), (1, 2, 3), (1_000, 100_000, 1_000_000), (250_000, 500_000, 750_000, 1_000_000)
)
QUICK: Final = Profile(1, 1.0, (1, BUSY), (1, 2), (1_000, 10_000), (10_000, 20_000))


@dataclass(frozen=True)
class _Program:
    children: Sequence[Child]
    target: NatsTarget


class _Bench:
    """One nats-server, and programs on it."""

    def __init__(self, folder: Path, console: Console, stop: asyncio.Event) -> None:
        self._folder = folder
        self._state = State(folder)
        self._console = console
        self._stop = stop
        self._nats: Child
        self._url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        port = claim_port(0, "")
        self._url = f"nats://127.0.0.1:{port}"
        server = nats_server(self._folder / "nats", port, operator=self._state.operator(), system=self._state.system())
        async with server as self._nats:
            yield

    @asynccontextmanager
    async def engine(self, rows: int) -> AsyncIterator[dict[str, str]]:
        """Run a DynamoDB engine with a table of `rows` rows; yields the environment that an SDK needs to reach it."""
        self.say(f"a table of {rows:,} rows")
        folder, port = Path(tempfile.mkdtemp(dir=self._folder)), claim_port(0, "")
        balances = {str(number): 100 + number % 9900 for number in range(1, rows + 1)}
        await imported(balances, TABLE, folder)
        async with dynamodb(folder, port):
            yield environment(port)

    @asynccontextmanager
    async def program(
        self, name: str, dynamodb_env: dict[str, str], tasks: int = 1, account: str | None = None
    ) -> AsyncIterator[_Program]:
        """Run `tasks` processes of a program in their own account; ready when they answer `$SRV`."""
        account = account or name
        files = Files(self._folder / "creds" / account)
        await provision(self._url, self._state, files, account)
        env = service_env(self._url, files.creds("service"), TABLE, dynamodb_env) | {"SEED_ROWS": "0"}
        target = NatsTarget(servers=[self._url], creds=files.creds("client"))
        async with AsyncExitStack() as stack:
            children = []
            for number in range(1, tasks + 1):
                log = self._folder / "logs" / f"{account}-{number}.log"
                task = service_task(name, env, claim_port(0, ""), log, PROGRAMS[name])
                children.append((await stack.enter_async_context(task)).child)
            await self._answering(children, target)
            yield _Program(children, target)

    async def measure(self, program: _Program, loop: Loop, label: str, ids: int = 1000) -> Sample:
        """Run one load against a program; returns what it cost.

        Raises `BenchmarkError` when a request failed: a failed request does not cost what a reply costs.
        """
        plan = Plan(program.target, None, 5.0, ids, None, 1, None, {})
        before = _cpu_s(program.children), _cpu_s([self._nats])
        totals, _ = await one_load(plan, loop, self._console, self._stop, label)
        after = _cpu_s(program.children), _cpu_s([self._nats])
        measured = Measured.of(totals)
        if measured.interrupted:
            raise BenchmarkError("interrupted")
        if measured.failed:
            raise BenchmarkError(f"{label}: {measured.errors}; see that the machine is not overloaded")
        each = 1e6 / measured.replies
        return Sample(measured, (after[0] - before[0]) * each, (after[1] - before[1]) * each)

    def say(self, line: str) -> None:
        self._console.print(line)

    async def _answering(self, children: Sequence[Child], target: NatsTarget) -> None:
        async with connected(target) as client:

            async def all_answer() -> bool:
                return len(await statistics(client)) == len(children)

            for child in children:
                await child.until(all_answer)


async def measure(profile: Profile, console: Console, stop: asyncio.Event) -> CostResult:
    """Run every measurement.

    Raises `BenchmarkError`, `LocalError` or `ProvisioningError` when one cannot run.
    """
    started_at = results.now()
    with tempfile.TemporaryDirectory(prefix="balance-bench-") as folder:
        bench = _Bench(Path(folder), console, stop)
        async with bench.running():
            async with bench.engine(1000) as dynamodb_env:
                rounds, resident = await _side_by_side(bench, dynamodb_env, profile)
                scale = await _over_tasks(bench, dynamodb_env, profile)
                memory = await _memory(bench, dynamodb_env, profile)
            scale += await _over_rows(bench, profile)
    return CostResult(
        started_at=started_at,
        machine=Machine.this(),
        settings={"rounds": str(profile.rounds), "seconds each": f"{profile.step_s:g}"},
        rows=cost_rows(rounds, resident),
        scale=scale,
        memory=memory,
        claims=requirements(rounds, scale, memory),
    )


async def _side_by_side(
    bench: _Bench, dynamodb_env: dict[str, str], profile: Profile
) -> tuple[list[Round], dict[str, float]]:
    """Returns the rounds, and each program's memory after them."""
    async with AsyncExitStack() as stack:
        programs = {name: await stack.enter_async_context(bench.program(name, dynamodb_env)) for name in PROGRAMS}
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
                    now[name, concurrency] = await bench.measure(program, _closed(concurrency, profile.step_s), label)
            rounds.append(now)
            bench.say(f"round {number + 1} of {profile.rounds} is measured")
        return rounds, {name: _memory_mib(program.children[0]) for name, program in programs.items()}


async def _over_tasks(bench: _Bench, dynamodb_env: dict[str, str], profile: Profile) -> list[ScaleRow]:
    found = []
    for tasks in profile.tasks:
        async with bench.program(SERVICE, dynamodb_env, tasks) as program:
            await bench.measure(program, _closed(BUSY, profile.warm_up_s), "warming up")
            sample = await bench.measure(program, _closed(BUSY, profile.step_s), f"{tasks} tasks")
        found.append(scale_row("tasks", tasks, sample))
        bench.say(f"tasks: {tasks} measured")
    return found


async def _over_rows(bench: _Bench, profile: Profile) -> list[ScaleRow]:
    """Reads every row in turn, so that the engine's caches do not help more than in production."""
    async with AsyncExitStack() as stack:
        programs: dict[int, _Program] = {}
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


async def _memory(bench: _Bench, dynamodb_env: dict[str, str], profile: Profile) -> list[tuple[int, float]]:
    """A new task's memory as its requests add up."""
    found: list[tuple[int, float]] = []
    async with bench.program(SERVICE, dynamodb_env) as program:
        for requests in profile.memory_after:
            more = requests - (found[-1][0] if found else 0)
            await bench.measure(program, Closed(requests=more, concurrency=BUSY), f"memory, to {requests:,} requests")
            found.append((requests, _memory_mib(program.children[0])))
            bench.say(f"{requests:,} requests: {found[-1][1]:.1f} MiB")
    return found


def _closed(concurrency: int, duration_s: float) -> Closed:
    return Closed(requests=_ENDLESS, concurrency=concurrency, duration_s=duration_s)


def _cpu_s(children: Sequence[Child]) -> float:
    times = [psutil.Process(child.pid).cpu_times() for child in children]
    return float(sum(time.user + time.system for time in times))


def _memory_mib(child: Child) -> float:
    return float(psutil.Process(child.pid).memory_info().rss) / 2**20
