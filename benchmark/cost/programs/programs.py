"""Run the programs that `cost` measures on real servers: one shared nats-server, and a DynamoDB engine."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console

from benchmark.cost import archive as archive_cost
from benchmark.cost import devices as devices_cost
from benchmark.cost.figures import BASELINE, ECHO, PEER, SERVICE, Sample
from benchmark.cost.queue import Sidecar
from benchmark.errors import BenchmarkError
from benchmark.instances import statistics
from benchmark.load.endpoints import BALANCE
from benchmark.load.job import Frames, Loop, NatsTarget
from benchmark.load.transport import connected
from benchmark.peers import go as peer
from benchmark.plan import Plan, one_load
from benchmark.report.measured import Measured
from control_plane.desired import CLIENT
from control_plane.desired import SERVICE as SERVICE_USER
from control_plane.files import Files
from control_plane.resources import User
from control_plane.self_hosted import provider as self_hosted
from local.device import add
from local.process import Child, accepts, claim_port, running
from local.servers.dynamodb import create_adjustments, create_table, dynamodb, environment, imported, put_balances
from local.servers.nats_server import Mqtt, nats_server
from local.state import State
from local.system import provision, ready, service_env, service_task
from service.contracts import archive, customer, devices, queue

PROGRAMS: Final = {ECHO: "benchmark.peers.echo", SERVICE: "service", BASELINE: "benchmark.peers.baseline"}
TABLE: Final = "balances"
ADJUSTMENTS: Final = "adjustments"
EVENTS: Final = "events"
READINGS: Final = "readings"
DEVICES: Final = "devices"
"""The account of the role devices."""
BENCH_S: Final = 7_200
TIMEOUT_S: Final = 15.0
"""On a shared machine, the baseline answers about 100 requests/s, with 500 in flight."""


@dataclass(frozen=True)
class Program:
    children: Sequence[Child]
    target: NatsTarget
    files: Files

    def by(self, user: User) -> Program:
        """Return the same program, with requests by another user."""
        return replace(self, target=self.target.model_copy(update={"creds": self.files.creds(user.name)}))


class Bench:
    """One nats-server, and the programs that use it."""

    def __init__(self, folder: Path, console: Console, stop: asyncio.Event) -> None:
        self._folder = folder
        self._state = State(folder)
        self._console = console
        self._stop = stop
        self._nats: Child
        self._url = ""
        self._mqtt = Mqtt(claim_port(0, ""))
        self._accounts: dict[str, str] = {}
        """Name -> id."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        port = claim_port(0, "")
        self._url = f"nats://127.0.0.1:{port}"
        server = nats_server(
            self._folder / "nats", port, operator=self._state.operator(), system=self._state.system(), mqtt=self._mqtt
        )
        async with server as self._nats:
            yield

    @asynccontextmanager
    async def engine(self, rows: int) -> AsyncIterator[dict[str, str]]:
        """Run a DynamoDB engine with a table of `rows` rows; yield the environment with which an SDK reaches it."""
        self.say(f"a table of {rows:,} rows")
        folder, port = Path(tempfile.mkdtemp(dir=self._folder)), claim_port(0, "")
        balances = {str(number): 100 + number % 9900 for number in range(1, rows + 1)}
        await imported(balances, TABLE, folder)
        async with dynamodb(folder, port):
            yield environment(port)

    @asynccontextmanager
    async def engine_in_memory(self, rows: int) -> AsyncIterator[dict[str, str]]:
        """Run an engine that writes no file: for transactions, whose rate would otherwise be the disk's."""
        folder, port = Path(tempfile.mkdtemp(dir=self._folder)), claim_port(0, "")
        async with dynamodb(folder, port, in_memory=True):
            env = environment(port)
            await create_table(TABLE, env)
            balances = dict.fromkeys(map(str, range(1, rows + 1)), 100)
            await asyncio.to_thread(put_balances, balances, TABLE, env)
            await create_adjustments(ADJUSTMENTS, env)
            yield env

    async def build_peer(self) -> str:
        """Build the Go peer; return why that failed, or ''."""
        self.say("go build")
        return await peer.build(self._folder / "logs" / "go-build.log")

    @asynccontextmanager
    async def program(
        self,
        name: str,
        dynamodb_env: dict[str, str],
        tasks: int = 1,
        account: str | None = None,
        adjustments: str = "",
    ) -> AsyncIterator[Program]:
        """Run `tasks` processes of a program in their own account; wait for `$SRV` answers."""
        account = account or name
        files = Files(self._folder / "creds" / account)
        await provision(self._url, self._state, files, account)
        env = service_env(self._url, files.creds("service"), TABLE, dynamodb_env, adjustments=adjustments)
        env["SEED_ROWS"] = "0"
        target = NatsTarget(servers=[self._url], creds=files.creds(CLIENT.name))
        async with AsyncExitStack() as stack:
            children = []
            for number in range(1, tasks + 1):
                log = self._folder / "logs" / f"{account}-{number}.log"
                if name == PEER:
                    started = running(name, [str(peer.BINARY)], log, env | peer.run_time())
                    children.append(await stack.enter_async_context(started))
                    continue
                task = service_task(name, env, claim_port(0, ""), log, PROGRAMS[name])
                children.append((await stack.enter_async_context(task)).child)
            await self._answering(children, target)
            yield Program(children, target, files)

    @asynccontextmanager
    async def sidecar(self) -> AsyncIterator[Sidecar]:
        """Run a queue sidecar on a stream in its own account."""
        listen = f"127.0.0.1:{claim_port(0, '')}"
        own = {"QUEUE": f"jetstream:{queue.STREAM}", "QUEUE_LISTEN": listen}
        async with self._reader("queue", queue.USER, queue.INBOX_PREFIX, own) as (child, writer, reader):
            yield Sidecar(listen, writer, reader, child.pid)

    @asynccontextmanager
    async def archive(
        self, account: str, dynamodb_env: dict[str, str], module: str = "service"
    ) -> AsyncIterator[archive_cost.Task]:
        """Run a task of the archive, or another `module` instead, on a stream in its own account."""
        own = {
            "ARCHIVE_SOURCE": f"jetstream:{archive.STREAM}",
            "ARCHIVE_TABLE": EVENTS,
            "IDLE_EXIT": "0",
            **dynamodb_env,
        }
        started = self._reader("archive", archive.USER, archive.INBOX_PREFIX, own, account, module)
        async with started as (child, writer, reader):
            yield archive_cost.Task(child, writer, reader)

    @asynccontextmanager
    async def devices(
        self, account: str, env: dict[str, str], module: str = "service"
    ) -> AsyncIterator[devices_cost.Task]:
        """Run the role devices, or another `module` instead, in its own account."""
        own = {"DEVICES_LISTEN": f"127.0.0.1:{claim_port(0, '')}", **env}
        async with self._reader("devices", devices.USER, devices.INBOX_PREFIX, own, account, module) as (child, _, _):
            creds = self_hosted.administrator_of(self._state.operator(), self._accounts[account], expires_s=BENCH_S)
            yield devices_cost.Task(child, NatsTarget(servers=[self._url], creds=creds))

    async def connection_kib(self, connections: int) -> float:
        """Return how many KiB of nats-server's memory each of these connected devices takes."""
        name = "device-1"
        files = await add(self._state, self._url, [name], DEVICES)
        password = files[name].read_text().strip()
        return await devices_cost.connection_kib(self._mqtt.port, name, password, self._nats, connections, self.say)

    @asynccontextmanager
    async def slow_dynamodb(self, delay_ms: float, keys: tuple[str, str]) -> AsyncIterator[dict[str, str]]:
        port = claim_port(0, "")
        command = [sys.executable, "-m", "benchmark.cost.programs.slow_dynamodb", str(port), str(delay_ms), *keys]
        async with running("slow DynamoDB", command, self._folder / "logs" / "slow.log") as child:
            await child.until(lambda: accepts(port))
            yield environment(port)

    @asynccontextmanager
    async def _reader(
        self, role: str, user: str, inbox: str, env: dict[str, str], account: str = "", module: str = "service"
    ) -> AsyncIterator[tuple[Child, NatsTarget, NatsTarget]]:
        """Run a role that reads the stream; yield it, the user that writes to the stream, and the role's user."""
        account = account or role
        files = Files(self._folder / "creds" / account)
        self._accounts[account] = await provision(self._url, self._state, files, account)
        writer_creds, reader_creds = files.creds(SERVICE_USER.name), files.creds(user)
        assert writer_creds
        assert reader_creds
        env = {
            "PATH": os.environ.get("PATH", ""),
            "NATS_URL": self._url,
            "NATS_CREDENTIALS": base64.b64encode(reader_creds.encode()).decode(),
            **env,
        }
        log = self._folder / "logs" / f"{account}.log"
        async with service_task(account, env, claim_port(0, ""), log, module, role) as task:
            if module == "service":  # other programs have no health page; their warm-up waits for them
                await ready(task)
            yield (
                task.child,
                NatsTarget(servers=[self._url], creds=writer_creds, inbox_prefix=customer.INBOX_PREFIX),
                NatsTarget(servers=[self._url], creds=reader_creds, inbox_prefix=inbox),
            )

    async def measure(
        self, program: Program, loop: Loop, label: str, ids: int = 1000, frames: Frames = "plain",
        endpoint: str = BALANCE, *, zipf: float | None = None, shown: bool = True,
        refused: str = "",
    ) -> Sample:  # fmt: skip
        """Run one load against a program; return its cost. Ids come in turn, or with `zipf` at random (0: evenly).

        Raises `BenchmarkError` if a request failed, because its cost is not that of a reply, and `CancelledError` when
        interrupted. Requests `refused` with this error are allowed: they count as no reply, but their cost is included.
        """
        raw = frames if endpoint == BALANCE else None
        plan = Plan(program.target, None, TIMEOUT_S, ids, zipf, 1, None, {}, {endpoint: 1.0}, frames=raw)
        before = _cpu_s(program.children), _cpu_s([self._nats])
        console = self._console if shown else Console(quiet=True)  # a terminal shows one load at a time
        totals, _ = await one_load(plan, loop, console, self._stop, label)
        after = _cpu_s(program.children), _cpu_s([self._nats])
        measured = Measured.of(totals)
        if measured.interrupted:
            raise asyncio.CancelledError
        if measured.errors.keys() - {refused} or not measured.replies:
            raise BenchmarkError(f"{label}: {measured.errors}; see that the machine is not overloaded")
        each = 1e6 / measured.replies
        load_s = measured.generators.cpu_share * measured.elapsed_s
        return Sample(measured, (after[0] - before[0]) * each, (after[1] - before[1]) * each, load_s * each)

    def say(self, line: str) -> None:
        """Print a line between two measurements. Raises `CancelledError` when interrupted."""
        if self._stop.is_set():
            raise asyncio.CancelledError
        self._console.print(line)

    async def _answering(self, children: Sequence[Child], target: NatsTarget) -> None:
        async with connected(target) as client:

            async def all_answer() -> bool:
                return len(await statistics(client)) == len(children)

            for child in children:
                await child.until(all_answer)


def _cpu_s(children: Sequence[Child]) -> float:
    times = [psutil.Process(child.pid).cpu_times() for child in children]
    return float(sum(time.user + time.system for time in times))
