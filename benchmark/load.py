"""The load of one process: a closed loop that keeps `concurrency` requests in flight, or an open one that keeps a rate.

In a closed loop latency counts from the moment a request was sent. In an open loop it counts from the moment it was
due: a service that stalls is charged for every request that it kept waiting, sent late or not (coordinated omission).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Final

import orjson

from benchmark.ids import client_ids
from benchmark.job import Closed, Job, Open, Tick
from benchmark.latency import MAX_US, encoded, new_histogram
from benchmark.transport import Transport

LATE_S: Final = 0.005
TIMEOUT: Final = "timeout"
WRONG_BALANCE: Final = "wrong balance"
_SWEEP_S: Final = 0.02


class Load:
    """Sends a job's requests and keeps the record: sent = right replies + errors + in flight, at any moment."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ids = client_ids(job)
        self._expected = job.expected
        self._in_flight: dict[int, tuple[float, str]] = {}
        """Request number -> (due time, client id), oldest first."""
        self._sent = 0
        self._to_send = job.loop.requests if isinstance(job.loop, Closed) else 0
        self._closed = isinstance(job.loop, Closed)
        self._stopped = False
        self._changed = asyncio.Event()
        self._last_done = 0.0
        self._ticked = (time.monotonic(), time.process_time())
        self._reset()

    def stop(self) -> None:
        """Send no more. What is in flight is still waited for, each until its time-out."""
        self._stopped = True
        self._changed.set()

    async def run(self, transport: Transport, start_at: float) -> None:
        """Send everything and wait for what comes back, beginning at `start_at` on the monotonic clock."""
        self._send_request = transport.send
        await asyncio.sleep(max(0.0, start_at - time.monotonic()))
        giving_up = asyncio.create_task(self._give_up())
        try:
            if isinstance(self._job.loop, Closed):
                await self._run_closed(self._job.loop, start_at)
            else:
                await self._run_open(self._job.loop, start_at)
            while self._in_flight:
                self._changed.clear()
                await self._changed.wait()
        finally:
            giving_up.cancel()

    async def on_reply(self, number: int, balance: int | None, problem: str | None) -> None:
        """The transport's callback. What comes after its time-out has been counted already."""
        waiting = self._in_flight.pop(number, None)
        if waiting is None:
            return
        now = time.monotonic()
        if problem is None and self._expected is not None and self._expected.get(waiting[1]) != balance:
            problem = WRONG_BALANCE
        if problem is None:
            self._replies += 1
            self._histogram.record_value(min(MAX_US, max(1, round((now - waiting[0]) * 1e6))))
        else:
            self._errors[problem] += 1
        await self._one_done(now)

    def tick(self, *, final: bool = False) -> Tick:
        """What happened since the last one."""
        wall, cpu = time.monotonic(), time.process_time()
        share = (cpu - self._ticked[1]) / max(1e-9, wall - self._ticked[0])
        self._ticked = (wall, cpu)
        tick = Tick(
            at=wall,
            sent=self._sent - self._sent_before,
            replies=self._replies,
            errors=dict(self._errors),
            in_flight=len(self._in_flight),
            histogram=encoded(self._histogram) if self._histogram.get_total_count() else "",
            late=self._late,
            cpu_share=share,
            last_done=self._last_done,
            final=final,
        )
        self._reset()
        return tick

    def _reset(self) -> None:
        self._histogram = new_histogram()
        self._errors: Counter[str] = Counter()
        self._replies = 0
        self._late = 0
        self._sent_before = self._sent

    async def _run_closed(self, loop: Closed, start_at: float) -> None:
        ends = start_at + loop.duration_s if loop.duration_s else None
        for _ in range(min(loop.concurrency, self._to_send)):
            await self._send(time.monotonic())
        while self._sent < self._to_send and not self._stopped:
            self._changed.clear()
            timeout = max(0.0, ends - time.monotonic()) if ends else None
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                self._to_send = self._sent

    async def _run_open(self, loop: Open, start_at: float) -> None:
        pacer = Pacer(moments(loop, self._job, start_at))
        try:
            async for due in pacer:
                if self._stopped:
                    return
                if time.monotonic() - due > LATE_S:
                    self._late += 1
                await self._send(due)
        finally:
            pacer.stop()

    async def _send(self, due: float) -> None:
        number, client_id = self._sent, next(self._ids)
        self._sent += 1
        self._in_flight[number] = (due, client_id)
        await self._send_request(number, orjson.dumps({"client_id": client_id}))

    async def _one_done(self, now: float) -> None:
        self._last_done = now
        if self._closed and self._sent < self._to_send and not self._stopped:
            await self._send(now)
        elif not self._in_flight or self._closed:
            self._changed.set()

    async def _give_up(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            while self._in_flight:
                number, (since, _) = next(iter(self._in_flight.items()))
                if now - since < self._job.timeout_s:
                    break
                del self._in_flight[number]
                self._errors[TIMEOUT] += 1
                self._histogram.record_value(min(MAX_US, round((now - since) * 1e6)))
                await self._one_done(now)


def moments(loop: Open, job: Job, start_at: float) -> Iterator[float]:
    """When this process's requests are due: every `stride`th of a constant rate, or a Poisson process's share of it."""
    if not loop.poisson:
        for number in range(job.first, round(loop.rate * loop.duration_s), job.stride):
            yield start_at + number / loop.rate
        return
    draw = random.Random(job.seed * 1000 + job.first)
    due = start_at
    while (due := due + draw.expovariate(loop.rate / job.stride)) < start_at + loop.duration_s:
        yield due


class Pacer:
    """Moments, each given out when it has come, or at once when it has passed.

    A thread of its own sleeps between them, because an event loop's timers are a millisecond coarse.
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
        self._stopped = True
        self._thread.join()

    def __aiter__(self) -> Pacer:
        return self

    async def __anext__(self) -> float:
        while not self._due:
            self._woken.clear()
            self._waking = False
            if not self._due:
                await self._woken.wait()
        due = self._due.popleft()
        if due is None:
            raise StopAsyncIteration
        return due

    def _run(self) -> None:
        for due in self._moments:
            while (wait_s := due - time.monotonic()) > 0 and not self._stopped:
                time.sleep(min(wait_s, 0.1))
            if self._stopped:
                break
            self._give(due)
        self._give(None)

    def _give(self, due: float | None) -> None:
        self._due.append(due)
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._woken.set)
