"""Let messages pile up before a stopped process, then resume it: its rate, and its CPU per message."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

import psutil

from benchmark.cost.bare_loop import Writes
from benchmark.errors import BenchmarkError
from local.process import Child
from service.nats.client import NatsClient, roundtrip

POLL_S: Final = 0.02
TURN_S: Final = 120.0
CHUNK: Final = 2_000
"""Messages to publish before checking that the server has them."""

Measure = Callable[[int], Awaitable[Writes]]
"""Number of messages -> result of handling them."""


def draining(child: Child, publish: Callable[[int], Awaitable[None]], waiting: Callable[[], Awaitable[int]]) -> Measure:
    """Return a function that makes `child` handle messages, which `publish` makes and `waiting` counts.

    It raises `BenchmarkError` if that does not end.
    """

    async def measure(count: int) -> Writes:
        child.signal(signal.SIGSTOP)
        try:
            await publish(count)
            while await waiting() < count:
                await asyncio.sleep(POLL_S)
            began, before_s = time.perf_counter(), cpu_s(child)
        finally:
            child.signal(signal.SIGCONT)
        while await waiting():
            if child.process.returncode is not None or time.perf_counter() - began > TURN_S:
                raise BenchmarkError(f"{child.name} did not take {count:,} messages: {child.last_words()}")
            await asyncio.sleep(POLL_S)
        elapsed_s = time.perf_counter() - began
        return Writes(rate=count / elapsed_s, cpu_us=(cpu_s(child) - before_s) * 1e6 / count)

    return measure


def cpu_s(child: Child) -> float:
    """Return the CPU seconds that a process has used. Raises `BenchmarkError` if it has ended."""
    try:
        times = psutil.Process(child.pid).cpu_times()
    except psutil.NoSuchProcess:
        raise BenchmarkError(f"{child.name} has ended: {child.last_words()}") from None
    return float(times.user + times.system)


async def post_all(nc: NatsClient, count: int, post: Callable[[int], None]) -> None:
    """Call `post` with each number; return once the server has everything that was posted."""
    for number in range(count):
        post(number)
        if number % CHUNK == 0:
            await roundtrip(nc)
    await roundtrip(nc)
