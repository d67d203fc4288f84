"""When the requests of an open loop are due, and a clock that yields each moment when it comes."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from benchmark.load.job import Job, Open

_NAP_S: Final = 0.02
"""Longest sleep of a stopped pacer."""


def moments(loop: Open, job: Job, start_at: float) -> Iterator[float]:
    """Yield when this process's requests are due: every `stride`th of a constant rate, or a share of a Poisson one."""
    if not loop.poisson:
        for number in range(job.first, round(loop.rate * loop.duration_s), job.stride):
            yield start_at + number / loop.rate
        return
    draw = random.Random(job.seed * 1000 + job.first)
    due = start_at
    while (due := due + draw.expovariate(loop.rate / job.stride)) < start_at + loop.duration_s:
        yield due


class Pacer:
    """Yields each moment when it comes, or at once if it has passed.

    Its own thread sleeps in between, because an event loop's timers have a resolution of one millisecond.
    """

    def __init__(self, due: Iterator[float]) -> None:
        self._moments = due
        self._due: deque[float | None] = deque()
        self._woken = asyncio.Event()
        self._waking = False
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="pacer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Yield no more; drop moments that were not taken yet."""
        self._stopped = True
        self._woken.set()

    def close(self) -> None:
        self.stop()
        self._thread.join()

    def __aiter__(self) -> Pacer:
        return self

    async def __anext__(self) -> float:
        while not self._due and not self._stopped:
            self._woken.clear()
            self._waking = False
            if not self._due:
                await self._woken.wait()
        due = None if self._stopped else self._due.popleft()
        if due is None:
            raise StopAsyncIteration
        return due

    def _run(self) -> None:
        for due in self._moments:
            while (wait_s := due - time.monotonic()) > 0 and not self._stopped:
                time.sleep(min(wait_s, _NAP_S))
            if self._stopped:
                return
            self._give(due)
        self._give(None)

    def _give(self, due: float | None) -> None:
        self._due.append(due)
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._woken.set)
