"""A closed loop of raw frames: what one read brings is found in one pass, and asked again in one write.

It takes a fraction of the CPU of what it measures, and blocks in its reads: nothing else runs in its process.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Final, NamedTuple

from nats.micro.request import ERROR_CODE_HEADER
from nats.nuid import NUID

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import BALANCE, ENDPOINTS, WRONG_SHAPE
from benchmark.load.generator import tell
from benchmark.load.ids import client_ids
from benchmark.load.job import TICK_S, Closed, Done, Frames, Job, NatsTarget, Start, Target, Tick
from benchmark.load.latency import MAX_US, encoded, new_histogram
from benchmark.load.loops import TIMEOUT
from benchmark.load.transport import connected
from service.contracts import customer as contract
from service.nats.connection import roundtrip

ODD_EVERY: Final = 100
TRACEPARENT: Final = b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_READ_BYTES: Final = 1 << 18
_FRAME: Final = re.compile(rb"(?:(H?)MSG [^ ]+\.(\d+) 1 (\d+)(?: (\d+))?|PING|PONG|\+OK|(-ERR[^\r]*))\r\n")
_RIGHT: Final = re.compile(rb'\{"balance": ?-?\d+\}')
_ALL_RIGHT: Final = re.compile(rb"MSG [^ ]+\.(\d+) 1 \d+\r\n%b\r\n" % _RIGHT.pattern)
_CODE: Final = re.compile(rb"%b: (\d+)\r\n" % ERROR_CODE_HEADER.encode())


class Request(NamedTuple):
    """A frame is `begin`, the reply's subject, `rest`."""

    begin: bytes
    rest: bytes
    refusal: str = ""
    """The code of the error that it is to be answered with."""
    is_split: bool = False
    """It leaves in two writes."""


def request(payload: bytes, header: bytes = b"", refusal: str = "", *, is_split: bool = False) -> Request:
    subject = contract.SUBJECT.encode()
    if not header:
        return Request(b"PUB %b " % subject, b" %d\r\n%b\r\n" % (len(payload), payload), refusal, is_split)
    block = b"NATS/1.0\r\n%b\r\n\r\n" % header
    rest = b" %d %d\r\n%b%b\r\n" % (len(block), len(block) + len(payload), block, payload)
    return Request(b"HPUB %b " % subject, rest, refusal, is_split)


_asking: Final = ENDPOINTS[BALANCE].request
ODD: Final = (
    request(_asking("unknown"), refusal="404"),
    request(b'{"client_id":', refusal="403"),
    request(_asking("1"), b"X-Request: 1"),
    request(b'{"client_id":%b"1"}' % (b"\r\n" * 200)),
    request(_asking("1"), is_split=True),
)


def requests(kind: Frames, ids: Iterator[str]) -> Iterator[Request]:
    """Without end: for each of `ids` in turn, with a header in each, or an odd one in each hundred."""
    header = TRACEPARENT if kind == "traceparent" else b""
    usual = cycle(request(_asking(client_id), header) for client_id in ids)
    if kind != "odd":
        return usual
    odd = cycle(ODD)
    return (each if number % ODD_EVERY else next(odd) for number, each in enumerate(usual, 1))


def replies(data: bytes) -> tuple[list[tuple[bytes, str]], int]:
    """What each answered request got, by its number: the code of an error, else what is wrong, else nothing. And where
    the frame begins that is not whole yet.

    Raises `BenchmarkError` for what the server refuses.
    """
    found, at = list[tuple[bytes, str]](), 0
    while frame := _FRAME.match(data, at):
        has_headers, number, size, total, refused = frame.groups()
        if refused:
            raise BenchmarkError(f"nats-server says {refused.decode()}")
        if number is None:
            at = frame.end()
            continue
        body, end = frame.end(), frame.end() + int(total or size)
        if len(data) < end + 2:
            break
        at = end + 2
        if has_headers:
            code = _CODE.search(data, body, end)
            found.append((number, code[1].decode() if code else data[body:end].decode().split("\r\n")[0]))
        else:
            found.append((number, "" if _RIGHT.fullmatch(data, body, end) else WRONG_SHAPE))
    return found, at


class _Loop:
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
        self._last = 0.0
        self._reset()

    def run(self, start_at: float) -> None:
        """Raises `BenchmarkError` when the server ends it, or a reply comes twice."""
        time.sleep(max(0.0, start_at - time.monotonic()))
        self._ticked = (time.monotonic(), time.process_time())
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
                tell(self._tick())
                if select.select([sys.stdin], [], [], 0)[0]:  # its end
                    self._left = 0
        tell(self._tick(final=True))

    def _read(self) -> None:
        """Take what has come, and ask again as often."""
        try:
            came = self._connection.recv(_READ_BYTES)
        except BlockingIOError:  # a tick is due
            return
        if not came:
            raise BenchmarkError("nats-server has closed the connection")
        now, data = time.monotonic(), self._rest + came
        numbers = _ALL_RIGHT.findall(data)
        if 2 * len(numbers) == data.count(b"\r\n") and data.endswith(b"\r\n") and not self._refusals:
            self._rest = b""
        else:
            answers, at = replies(data)
            self._rest = data[at:]
            if b"PING\r\n" in data:
                self._connection.sendall(b"PONG\r\n")
            numbers = [number for number, _ in answers]
            self._errors.update(answer for number, answer in answers if answer != self._refusals.pop(number, ""))
        if not numbers:
            return
        begun = self._in_flight.pop
        try:
            self._latencies += [now - begun(number) for number in numbers]
        except KeyError:
            raise BenchmarkError("a request was answered twice") from None
        self._last = now
        self._send(numbers[: self._left], now)

    def _send(self, numbers: list[bytes], now: float) -> None:
        self._left -= len(numbers)
        self._sent += len(numbers)
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
        """End when a request has had no reply for too long: what is measured then is no cost."""
        if self._in_flight and now - min(self._in_flight.values()) > self._timeout_s:
            self._errors[TIMEOUT] += len(self._in_flight)
            self._in_flight.clear()
            self._left = 0

    def _tick(self, *, final: bool = False) -> Tick:
        wall, cpu = time.monotonic(), time.process_time()
        share = (cpu - self._ticked[1]) / (wall - self._ticked[0])
        self._ticked = (wall, cpu)
        histogram = new_histogram()
        for us, count in Counter([min(MAX_US, max(1, round(each * 1e6))) for each in self._latencies]).items():
            histogram.record_value(us, count)
        right = len(self._latencies) - (self._errors.total() - self._errors[TIMEOUT])
        done = Done(replies=right, errors=dict(+self._errors), histogram=encoded(histogram))
        found = Tick(
            at=wall, sent=self._sent, done={BALANCE: done}, in_flight=len(self._in_flight), cpu_share=share,
            last_active=self._last, last_done=self._last, final=final,
        )  # fmt: skip
        self._reset()
        return found

    def _reset(self) -> None:
        self._latencies: list[float] = []
        self._errors: Counter[str] = Counter()
        self._sent = 0


def drive(job: Job) -> None:
    """As `generator.generate`, for a closed loop with `frames`."""
    try:
        inbox = b"_INBOX.%b" % bytes(NUID().next())
        with asyncio.run(_taken_over(job.target)) as connection:
            connection.sendall(b"SUB %b.* 1\r\n" % inbox)
            loop = _Loop(job, connection, inbox)
            tell(Tick(at=0.0))
            if line := sys.stdin.readline():
                loop.run(Start.model_validate_json(line).at)
    except (BenchmarkError, OSError) as error:
        tell(Tick(at=0.0, final=True, problem=str(error)))


async def _taken_over(target: Target) -> socket.socket:
    """A connection that nats-py has made. Raises `BenchmarkError` when it cannot."""
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
