"""A load of raw frames: one pass per read, and one write for everything to send.

It uses a fraction of the CPU of what it measures. It blocks, so nothing else can run in its process.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import sys
import time
from collections import Counter
from itertools import islice
from typing import Final

from nats.nuid import NUID

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import BALANCE
from benchmark.load.frames import ALL_RIGHT, replies, requests
from benchmark.load.generator import tell
from benchmark.load.ids import client_ids
from benchmark.load.job import TICK_S, Closed, Done, Job, NatsTarget, Open, Start, Target, Tick
from benchmark.load.latency import MAX_US, encoded, new_histogram
from benchmark.load.loops import LATE_S, TIMEOUT
from benchmark.load.transport import connected
from service.nats.client import roundtrip

_READ_BYTES: Final = 1 << 18
_AT_ONCE: Final = 2_000
"""Most requests of an open loop in one write, so that a loop that is late still reads in between."""
_PAUSE_S: Final = 0.001
"""How often an open loop sends what is due: one write per request would cost too much."""


class Record:
    """Counts requests and replies since the last tick."""

    def __init__(self) -> None:
        self.last_s = 0.0
        """When a reply was last received, on the monotonic clock."""
        self.begin()

    def begin(self) -> None:
        self._ticked = (time.monotonic(), time.process_time())
        self.latencies_s: list[float] = []
        self.errors: Counter[str] = Counter()
        self.sent = self.late = self.replies = 0

    def tick(self, in_flight: int, *, final: bool = False) -> Tick:
        """Return the counts as a tick, and reset them."""
        wall, cpu = time.monotonic(), time.process_time()
        share = (cpu - self._ticked[1]) / (wall - self._ticked[0])
        histogram = new_histogram()
        for us, count in Counter([min(MAX_US, max(1, round(each * 1e6))) for each in self.latencies_s]).items():
            histogram.record_value(us, count)
        done = Done(replies=self.replies, errors=dict(self.errors), histogram=encoded(histogram))
        found = Tick(
            at=wall, sent=self.sent, done={BALANCE: done}, in_flight=in_flight, late=self.late, cpu_share=share,
            last_active=self.last_s, last_done=self.last_s, final=final,
        )  # fmt: skip
        self.begin()
        return found


class ClosedLoop:
    """Sends a new request for each reply."""

    def __init__(self, job: Job, connection: socket.socket, inbox: bytes) -> None:
        assert isinstance(job.loop, Closed)
        assert job.frames
        self._connection = connection
        self._timeout_s = job.timeout_s
        self._left = job.loop.requests
        self._inboxes = {b"%d" % number: b"%b.%d" % (inbox, number) for number in range(job.loop.concurrency)}
        self._requests = requests(job.frames, islice(client_ids(job), job.ids))
        self._duration_s = job.loop.duration_s or float("inf")
        self._in_flight: dict[bytes, float] = {}
        self._refusals: dict[bytes, str] = {}
        self._rest = b""
        self._record = Record()

    def run(self, start_at: float) -> None:
        """Block until the last reply. Raises `BenchmarkError` if the server closes, or a reply comes twice."""
        time.sleep(max(0.0, start_at - time.monotonic()))
        self._record.begin()
        self._send(list(self._inboxes)[: self._left], time.monotonic())
        next_tick = start_at + TICK_S
        while self._in_flight:
            self._read()
            now = time.monotonic()
            if now >= start_at + self._duration_s:
                self._left = 0
            if now >= next_tick:
                next_tick += TICK_S
                self._give_up(now)
                tell(self._record.tick(len(self._in_flight)))
                if select.select([sys.stdin], [], [], 0)[0]:  # end of input
                    self._left = 0
        tell(self._record.tick(0, final=True))

    def _read(self) -> None:
        """Take all replies that have arrived, and send as many requests."""
        try:
            came = self._connection.recv(_READ_BYTES)
        except BlockingIOError:  # a tick is due
            return
        if not came:
            raise BenchmarkError("nats-server has closed the connection")
        now, data = time.monotonic(), self._rest + came
        numbers = ALL_RIGHT.findall(data)
        if 2 * len(numbers) == data.count(b"\r\n") and data.endswith(b"\r\n") and not self._refusals:
            self._rest = b""
        else:
            answers, at = replies(data)
            self._rest = data[at:]
            if b"PING\r\n" in data:
                self._connection.sendall(b"PONG\r\n")
            numbers = [number for number, _ in answers]
            wrong = [answer for number, answer in answers if answer != self._refusals.pop(number, "")]
            self._record.errors.update(wrong)
            self._record.replies -= len(wrong)
        if not numbers:
            return
        self._record.replies += len(numbers)
        begun = self._in_flight.pop
        try:
            self._record.latencies_s += [now - begun(number) for number in numbers]
        except KeyError:
            raise BenchmarkError("a request was answered twice") from None
        self._record.last_s = now
        self._send(numbers[: self._left], now)

    def _send(self, numbers: list[bytes], now: float) -> None:
        self._left -= len(numbers)
        self._record.sent += len(numbers)
        frames, inboxes = list[bytes](), self._inboxes
        for number, each in zip(numbers, self._requests, strict=False):
            begin, rest, refusal, is_split = each
            if refusal:
                self._refusals[number] = refusal
            frame = begin + inboxes[number] + rest
            if is_split:
                self._connection.sendall(b"".join([*frames, frame[: len(frame) // 2]]))
                frames, frame = [], frame[len(frame) // 2 :]
            frames.append(frame)
        self._in_flight.update(dict.fromkeys(numbers, now))
        self._connection.sendall(b"".join(frames))

    def _give_up(self, now: float) -> None:
        """End the load if a request has timed out: such a measurement does not show the cost."""
        if self._in_flight and now - min(self._in_flight.values()) > self._timeout_s:
            self._record.errors[TIMEOUT] += len(self._in_flight)
            self._in_flight.clear()
            self._left = 0


class OpenLoop:
    """Sends request number n of the whole load n/rate seconds after the start, however slow the replies.

    Latency counts from that time. `run` blocks until each request is answered or has timed out. It raises
    `BenchmarkError` if the server closes.
    """

    def __init__(self, job: Job, connection: socket.socket, inbox: bytes) -> None:
        assert isinstance(job.loop, Open)
        assert job.frames
        assert not job.loop.poisson
        self._connection = connection
        self._inbox = inbox
        self._timeout_s = job.timeout_s
        self._every_s, self._first_s = job.stride / job.loop.rate, job.first / job.loop.rate
        self._total = round(job.loop.duration_s / self._every_s)
        self._requests = requests(job.frames, islice(client_ids(job), job.ids))
        self._waiting: set[int] = set()
        self._sent = self._oldest = 0
        self._rest = b""
        self._record = Record()

    def run(self, start_at: float) -> None:
        self._first_s += start_at
        time.sleep(max(0.0, self._first_s - time.monotonic()))
        self._record.begin()
        next_tick = start_at + TICK_S
        while self._sent < self._total or self._waiting:
            now = time.monotonic()
            self._send(now)
            if select.select([self._connection], [], [], 0.0 if self._is_late(now) else _PAUSE_S)[0]:
                self._read()
            if now >= next_tick:
                next_tick += TICK_S
                self._give_up(now)
                tell(self._record.tick(len(self._waiting)))
                if select.select([sys.stdin], [], [], 0)[0]:  # end of input
                    self._total = self._sent
        tell(self._record.tick(0, final=True))

    def _due_s(self, number: int) -> float:
        return self._first_s + number * self._every_s

    def _is_late(self, now: float) -> bool:
        return self._sent < self._total and self._due_s(self._sent) <= now

    def _send(self, now: float) -> None:
        due = min(self._total, int((now - self._first_s) / self._every_s) + 1, self._sent + _AT_ONCE)
        if due <= self._sent:
            return
        numbers = range(self._sent, due)
        asked = zip(numbers, self._requests, strict=False)
        self._connection.sendall(
            b"".join([b"%b%b.%d%b" % (each.begin, self._inbox, n, each.rest) for n, each in asked])
        )
        self._waiting.update(numbers)
        self._record.sent += len(numbers)
        self._record.late += sum(1 for number in numbers if now - self._due_s(number) > LATE_S)
        self._sent = due

    def _read(self) -> None:
        came = self._connection.recv(_READ_BYTES)
        if not came:
            raise BenchmarkError("nats-server has closed the connection")
        now, data = time.monotonic(), self._rest + came
        answers, at = replies(data)
        self._rest = data[at:]
        if b"PING\r\n" in data:
            self._connection.sendall(b"PONG\r\n")
        for text, problem in answers:
            number = int(text)
            if number not in self._waiting:  # already counted as a timeout
                continue
            self._waiting.remove(number)
            self._record.last_s = now
            if problem:
                self._record.errors[problem] += 1
            else:
                self._record.replies += 1
                self._record.latencies_s.append(now - self._due_s(number))

    def _give_up(self, now: float) -> None:
        """Time out the oldest requests: they were sent in the order of their numbers."""
        while self._oldest < self._sent and now - self._due_s(self._oldest) > self._timeout_s:
            if self._oldest in self._waiting:
                self._waiting.remove(self._oldest)
                self._record.errors[TIMEOUT] += 1
                self._record.last_s = now
            self._oldest += 1


def drive(job: Job) -> None:
    """Do what `generator.generate` does, for a job with `frames`."""
    try:
        inbox = b"_INBOX.%b" % bytes(NUID().next())
        with asyncio.run(_taken_over(job.target)) as connection:
            connection.sendall(b"SUB %b.* 1\r\n" % inbox)
            make = ClosedLoop if isinstance(job.loop, Closed) else OpenLoop
            loop = make(job, connection, inbox)
            tell(Tick(at=0.0))
            if line := sys.stdin.readline():
                loop.run(Start.model_validate_json(line).at)
    except (BenchmarkError, OSError) as error:
        tell(Tick(at=0.0, final=True, problem=str(error)))


async def _taken_over(target: Target) -> socket.socket:
    """Return the socket of a connection made by nats-py. Raises `BenchmarkError` if that fails."""
    assert isinstance(target, NatsTarget)
    async with connected(target) as client:
        await roundtrip(client)
        assert client._transport
        there = client._transport._io_writer.get_extra_info("socket")  # type: ignore[attr-defined]
        connection = socket.socket(fileno=os.dup(there.fileno()))
    connection.setblocking(True)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, round(TICK_S * 1e6)))
    return connection


if __name__ == "__main__":
    drive(Job.model_validate_json(sys.stdin.readline()))
