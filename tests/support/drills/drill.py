"""Helpers for drills: a load that counts every request, and text for what was measured."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, TypeVar

import nats.errors
import psutil
import pytest
from nats.aio.client import Client
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER
from rich import box
from rich.console import Console
from rich.table import Table

from benchmark.load import generators
from benchmark.load.job import Closed, Frames, Job, Loop, NatsTarget, Open
from benchmark.load.loops import TIMEOUT
from benchmark.load.totals import Totals
from benchmark.load.transport import NO_RESPONDERS
from local.load import request_for
from local.system import Task
from service.contracts import customer as contract
from service.runtime.cancel import cancel
from tests.support.world import World, eventually, get

DOCUMENTED = {"403 BAD_REQUEST", "404 NOT_FOUND", "503 UNAVAILABLE", "500 INTERNAL_ERROR"}
FOREVER_S = 3600.0
Value = TypeVar("Value")


@dataclass
class Drill:
    """One drill of the table: `full`, as `make drill` runs it, or the short form."""

    full: bool
    properties: list[tuple[str, object]]
    """Properties of the test's report."""

    def pick(self, short: Value, full: Value) -> Value:
        return full if self.full else short

    def found(self, text: str) -> None:
        """Set the text of the table's last column; it is shown even if the drill fails later."""
        self.properties.append(("measured", text))


class Traffic:
    """A load from another process. Its totals are live until `finish`, and complete afterwards."""

    def __init__(
        self, world: World, loop: Loop, timeout_s: float, expected: Mapping[str, int] | None, frames: Frames | None
    ) -> None:
        self.totals = Totals()
        self._stop = asyncio.Event()
        target = NatsTarget(servers=world.nats_url.split(","), creds=world.creds("client"))
        job = Job(
            target=target, loop=loop, timeout_s=timeout_s, ids=1000,
            expected=dict(expected) if expected else None, frames=frames,
        )  # fmt: skip
        self._running = asyncio.create_task(generators.run(job, processes=1, on_tick=self._see, stop=self._stop))

    def _see(self, totals: Totals) -> None:
        self.totals = totals

    async def more(self, replies: int) -> None:
        """Wait for this many more correct replies."""
        enough = self.totals.replies + replies
        await eventually(lambda: self.totals.replies >= enough, within_s=30, what=f"{replies} more replies")

    async def finish(self) -> Totals:
        """Send no more, and wait for what is in flight. Fails unless sent = correct replies + known errors."""
        self._stop.set()
        return await self.finish_by_itself()

    async def finish_by_itself(self) -> Totals:
        """Wait for the end of a load that ends by itself."""
        self.totals = await self._running
        assert self.totals.sent == self.totals.replies + self.totals.errors.total()
        assert self.totals.errors.keys() <= {*DOCUMENTED, TIMEOUT, NO_RESPONDERS}
        return self.totals

    async def end(self) -> None:
        await cancel(self._running)

    @property
    def longest_silence_s(self) -> float:
        """The most whole seconds in a row without a correct reply."""
        longest = silent = 0
        for second in self.totals.timeline[:-1]:
            silent = 0 if second.replies else silent + 1
            longest = max(longest, silent)
        return longest


@asynccontextmanager
async def traffic(
    world: World, rate: float, *, timeout_s: float = 5.0, expected: Mapping[str, int] | None = None
) -> AsyncIterator[Traffic]:
    """Run a load of `rate` requests/s until `finish`; it starts with the first replies received."""
    async with put_on(world, Open(rate=rate, duration_s=FOREVER_S), timeout_s=timeout_s, expected=expected) as load:
        await load.more(1)
        yield load


@asynccontextmanager
async def put_on(
    world: World,
    loop: Closed | Open,
    *,
    timeout_s: float = 5.0,
    expected: Mapping[str, int] | None = None,
    frames: Frames | None = None,
) -> AsyncIterator[Traffic]:
    """Run a load. With `frames` it sends more than a nats-py client can, but ignores `expected` balances."""
    load = Traffic(world, loop, timeout_s, expected, frames)
    try:
        yield load
    finally:
        await load.end()


@dataclass
class Probe:
    """Requests sent one by one at a steady rate, however slow the replies: the outcome of each, and its time.

    Unlike the load, it sees when an error came.
    """

    client: Client
    balances: Mapping[str, int]
    timeout_s: float = 10.0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)

    @asynccontextmanager
    async def at(self, rate: float) -> AsyncIterator[None]:
        """Send `rate` requests/s meanwhile; when it ends, every one has an outcome."""
        async with asyncio.TaskGroup() as group:
            asking = asyncio.create_task(self._ask_on(rate, group))
            try:
                yield
            finally:
                await cancel(asking)

    async def until_right(self, within_s: float) -> float:
        """Send requests until a reply is correct; return the seconds that took."""
        started = time.monotonic()
        while await self.ask("1") != "OK":
            assert time.monotonic() - started < within_s, f"no right reply within {within_s:g} s: {self.outcomes}"
            await asyncio.sleep(0.02)
        return time.monotonic() - started

    async def ask(self, client_id: str) -> str:
        started = time.monotonic()
        outcome = await self._outcome(client_id)
        self.outcomes[outcome] += 1
        self.slowest_s[outcome] = max(self.slowest_s.get(outcome, 0.0), time.monotonic() - started)
        return outcome

    async def _ask_on(self, rate: float, group: asyncio.TaskGroup) -> None:
        due, ids = time.monotonic(), list(self.balances)
        for number in range(1 << 40):
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(self.ask(ids[number % len(ids)]))

    async def _outcome(self, client_id: str) -> str:
        try:
            reply = await self.client.request(contract.SUBJECT, request_for(client_id), timeout=self.timeout_s)
        except nats.errors.TimeoutError:
            return TIMEOUT
        except nats.errors.NoRespondersError:
            return NO_RESPONDERS
        if reply.headers and ERROR_CODE_HEADER in reply.headers:
            return f"{reply.headers[ERROR_CODE_HEADER]} {reply.headers.get(ERROR_HEADER)}"
        return "OK" if reply.data == b'{"balance":%d}' % self.balances[client_id] else f"wrong: {reply.data!r}"


async def answered(*tasks: Task) -> int:
    """Count the requests that these tasks answered with a balance: there must be as many events."""
    total = 0
    for task in tasks:
        _, text = await get(f"{task.health_url}/metrics")
        total += sum(
            round(float(line.rpartition(" ")[2]))
            for line in text.splitlines()
            if line.startswith('balance_requests_total{endpoint="balance",outcome="OK"}')
        )
    return total


async def stored(world: World, events: int) -> None:
    """Wait until the stream has had exactly this many events."""

    async def there() -> bool:
        return await world.last_sequence() == events

    await eventually(there, within_s=20, what=f"{events} events in the stream")


def memory_mib(task: Task) -> float:
    return float(psutil.Process(task.child.pid).memory_info().rss) / 2**20


def words(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "none"


def drill_table(reports: Sequence[pytest.TestReport]) -> str:
    """Return the table of the drills that ran, in the order in which they are listed."""
    table = Table(box=box.HORIZONTALS, show_lines=True, pad_edge=False)
    for column in ("drill", "must hold", "measured", ""):
        table.add_column(column, overflow="fold")
    for report in sorted(reports, key=lambda report: report.location):
        what = next((str(value) for name, value in report.user_properties if name == "drill"), None)
        if what is not None:
            measured = "; ".join(str(value) for name, value in report.user_properties if name == "measured")
            table.add_row(*what.split("\n"), measured, "ok" if report.passed else "NO")
    text = StringIO()
    Console(file=text, width=120, emoji=False, highlight=False, markup=False).print(table)
    return text.getvalue()


def bounds(*tasks: Task) -> str:
    """Return a note for a drill's output if the tasks' CPU could not be bounded."""
    return "" if all(task.is_bounded for task in tasks) else "; the tasks ran UNBOUNDED: no cgroup may be written here"
