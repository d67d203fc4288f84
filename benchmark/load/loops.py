"""The load of one process: a closed loop keeps `concurrency` requests in flight, an open loop keeps a rate.

In a closed loop, latency counts from when a request was sent. In an open loop, it counts from when the request was due:
a service that stalls is charged for every request that it delayed, sent late or not (coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final

from hdrh.histogram import HdrHistogram

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import CREATE, ENDPOINTS, draws
from benchmark.load.ids import client_ids
from benchmark.load.job import Change, Closed, Done, Job, Open, Tick
from benchmark.load.latency import MAX_US, encoded, new_histogram
from benchmark.load.pacer import Pacer, moments
from benchmark.load.transport import Transport

LATE_S: Final = 0.005
TIMEOUT: Final = "timeout"
_SWEEP_S: Final = 0.02


class Load:
    """Sends a job's requests and counts them: sent = correct replies + errors + in flight, at any time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ids = client_ids(job)
        self._names = draws(job.mix, job.seed + job.first)
        self._in_flight: dict[int, tuple[float, str, str]] = {}
        """Request number -> (due time, client id, endpoint), oldest first."""
        self._sent = 0
        self._to_send = job.loop.requests if isinstance(job.loop, Closed) else 0
        self._closed = isinstance(job.loop, Closed)
        self._stopped = False
        self._problem: str | None = None
        self._pacer: Pacer | None = None
        self._restart_at: float | None = None
        self._changed = asyncio.Event()
        self._last_done = self._last_active = 0.0
        self._ticked = (time.monotonic(), time.process_time())
        self._reset()

    def stop(self) -> None:
        """Send no more requests. `run` still waits for those in flight, up to their timeout."""
        self._stopped = True
        self._changed.set()
        if self._pacer:
            self._pacer.stop()

    def fail(self, problem: str) -> None:
        """End at once: `run` raises a `BenchmarkError` with the problem."""
        self._problem = self._problem or problem
        self.stop()

    def change(self, change: Change) -> None:
        """Continue with another open loop; drop what the previous one has not sent yet."""
        kept = {"loop": change.loop, "mix": change.mix, "first": change.first, "stride": change.stride}
        self._job = self._job.model_copy(update=kept)
        self._names = draws(change.mix, self._job.seed + change.first)
        self._restart_at = change.at
        if self._pacer:
            self._pacer.stop()

    async def run(self, transport: Transport, start_at: float) -> None:
        """Send everything, starting at `start_at` (monotonic clock), and wait for the replies.

        Raises `BenchmarkError` if `fail` was called.
        """
        self._send_request = transport.send
        await asyncio.sleep(max(0.0, start_at - time.monotonic()))
        giving_up = asyncio.create_task(self._give_up())
        try:
            if isinstance(self._job.loop, Closed):
                await self._run_closed(self._job.loop, start_at)
            else:
                await self._run_open(start_at)
            while self._in_flight and self._problem is None:
                self._changed.clear()
                await self._changed.wait()
        finally:
            giving_up.cancel()
        if self._problem is not None:
            raise BenchmarkError(self._problem)

    async def on_reply(self, number: int, body: bytes, problem: str | None) -> None:
        """Count a reply; the transport calls this. A reply after its timeout has already been counted."""
        waiting = self._in_flight.pop(number, None)
        if waiting is None:
            return
        due, client_id, name = waiting
        now = self._last_active = time.monotonic()
        if problem is None:
            expected = self._job.expected.get(client_id, -1) if self._job.expected is not None else None
            problem = ENDPOINTS[name].problem(body, client_id, expected)
        if problem is None:
            self._replies[name] += 1
            self._histogram_of(name).record_value(min(MAX_US, max(1, round((now - due) * 1e6))))
        else:
            self._errors_of(name)[problem] += 1
        await self._one_done(now)

    def tick(self, *, final: bool = False) -> Tick:
        """Return the results since the last tick."""
        wall, cpu = time.monotonic(), time.process_time()
        share = (cpu - self._ticked[1]) / max(1e-9, wall - self._ticked[0])
        self._ticked = (wall, cpu)
        tick = Tick(
            at=wall,
            sent=self._sent - self._sent_before,
            done={
                name: Done(
                    replies=self._replies[name],
                    errors=dict(self._errors.get(name, {})),
                    histogram=encoded(self._histograms[name]) if name in self._histograms else "",
                )
                for name in {**self._replies, **self._errors}
            },
            in_flight=len(self._in_flight),
            late=self._late,
            cpu_share=share,
            last_active=self._last_active,
            last_done=self._last_done,
            final=final,
        )
        self._reset()
        return tick

    def _reset(self) -> None:
        self._histograms: dict[str, HdrHistogram] = {}
        self._errors: dict[str, Counter[str]] = {}
        self._replies: Counter[str] = Counter()
        self._late = 0
        self._sent_before = self._sent

    def _histogram_of(self, name: str) -> HdrHistogram:
        if name not in self._histograms:
            self._histograms[name] = new_histogram()
        return self._histograms[name]

    def _errors_of(self, name: str) -> Counter[str]:
        if name not in self._errors:
            self._errors[name] = Counter()
        return self._errors[name]

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

    async def _run_open(self, start_at: float) -> None:
        begin_at: float | None = start_at
        while begin_at is not None and not self._stopped:
            assert isinstance(self._job.loop, Open)
            self._restart_at = None
            pacer = self._pacer = Pacer(moments(self._job.loop, self._job, begin_at))
            try:
                async for due in pacer:
                    if time.monotonic() - due > LATE_S:
                        self._late += 1
                    await self._send(due)
            finally:
                pacer.close()
            begin_at = self._restart_at

    async def _send(self, due: float) -> None:
        number, name = self._sent, next(self._names)
        own = f"{self._job.nonce}-{self._job.first}-{number}"
        client_id = own if name == CREATE else next(self._ids)
        self._sent += 1
        self._in_flight[number] = (due, client_id, name)
        self._last_active = time.monotonic()
        await self._send_request(number, ENDPOINTS[name].subject, ENDPOINTS[name].request(client_id, own))

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
                number, (since, _, name) = next(iter(self._in_flight.items()))
                if now - since < self._job.timeout_s:
                    break
                del self._in_flight[number]
                self._errors_of(name)[TIMEOUT] += 1
                self._histogram_of(name).record_value(min(MAX_US, round((now - since) * 1e6)))
                await self._one_done(now)
