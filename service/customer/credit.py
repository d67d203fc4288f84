"""Admission by credit: the server is given room for as many requests as can be answered soon, and no more.

A grant is a queue subscription that ends by itself after so many messages. There is room for 1,024 requests, or for
what this task answers in a quarter of a second, where that is more; `max_in_flight` is the most. Grants are made in
quarters of the least room, as requests are answered. What this task has no room for, the server gives to other tasks of
the queue group; when none has room, it tells the requester "no responders" at once. So nothing is refused here, and
nothing waits in a socket until its requester has given up (docs/adr/0011-credit.md).

| state | grants | left by |
| --- | --- | --- |
| closed | none | `open` |
| open, connected | `outstanding` of each subject, renewed while there is room | `close`, or the connection is lost |
| open, not connected | none: they ended with the connection | a new connection: made anew, for the room there is |
| closed for good | none, on no connection yet to come | |

Every subject has the whole room: one that nobody asks for holds its grants back from no other. The requests in flight
are the service's: a grant is made only while all of them leave room. Where several subjects were idle and are asked at
the same moment, more than `max_in_flight` may be in flight until these grants are used up.

Time without credit is the operator's sign that a task is full. A task that sleeps, because its CPU is used up, does not
see that its grants are used up too: when they turn out to have been, all the time since they were made counts.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import nats.errors
import structlog
from nats.aio.msg import Msg

from service.runtime.nats_client import NatsClient

log: Final = structlog.get_logger("service.micro")

LEAST: Final = 1024
"""Requests that there is room for however slow the task is, unless `max_in_flight` is less, or its half is more."""
AHEAD_S: Final = 0.25
"""A task without CPU sleeps for less, and a requester waits for longer."""
RATE_S: Final = 1.0
RECENT_S: Final = 10.0
SLEEP_S: Final = 0.1
"""A CPU quota's period, the longest sleep: https://docs.kernel.org/scheduler/sched-bwc.html"""
TELLING: Final = 16
"""Requests. Of grants for fewer, the first may stay untouched while others are used: that says nothing."""

Take = Callable[[Msg], Awaitable[None]]


class _Grants:
    """What was granted at one moment."""

    __slots__ = ("left", "unseen_s", "untouched")

    def __init__(self, limit: int, unseen_s: float) -> None:
        self.left = limit
        self.untouched = True
        self.unseen_s = unseen_s
        """Seconds without credit to count, if at the first delivery all grants before these are used up."""


class _Window:
    """One subject's grants, oldest first."""

    def __init__(self, subject: str, queue: str, take: Take) -> None:
        self.subject = subject
        self.queue = queue
        self.take = take
        self.outstanding = 0
        """Requests that the server may still deliver."""
        self.granted_s: float | None = None
        """When grants were last made on this connection."""
        self._grants: deque[_Grants] = deque()

    def add(self, limit: int, empty_s: float) -> _Grants:
        """Note further grants, made now; the subject was seen without any for the last `empty_s`."""
        now_s = time.monotonic()
        since_s = now_s - self.granted_s if self.granted_s is not None else 0.0
        self.granted_s = now_s
        grants = _Grants(limit, max(0.0, min(since_s, SLEEP_S) - empty_s) if limit >= TELLING else 0.0)
        self._grants.append(grants)
        self.outstanding += limit
        return grants

    def use(self, grants: _Grants) -> float:
        """Note a delivery. Returns for how many seconds, unseen until now, the server had no credit."""
        unseen_s = grants.unseen_s if grants.untouched and self._grants[0] is grants else 0.0
        grants.untouched = False
        grants.left -= 1
        self.outstanding -= 1
        while self._grants and self._grants[0].left == 0:
            self._grants.popleft()
        return unseen_s

    def forget(self) -> None:
        self._grants.clear()
        self.outstanding = 0
        self.granted_s = None


class Credit:
    """The room for requests, and how much of it is taken. `enter` and `leave` for each request."""

    def __init__(self, nc: NatsClient, max_in_flight: int) -> None:
        self.in_flight = 0
        self._nc = nc
        self._most = max_in_flight
        self._least = min(max_in_flight, max(LEAST, max_in_flight // 2))
        self._quarter = max(1, self._least // 4)
        self._limit = self._least
        self._answered = 0
        self._answered_since_s = time.monotonic()
        self._windows: list[_Window] = []
        self._is_open = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._without_s = 0.0
        self._empty_since_s: float | None = None
        self._marks = (time.monotonic(), 0.0), (time.monotonic(), 0.0)
        nc.on_lost = self._forget
        nc.on_reconnected = self._renew

    def add(self, subject: str, queue: str, take: Take) -> None:
        """Have `take` called with each request to `subject`. It starts the work and returns."""
        self._windows.append(_Window(subject, queue, take))

    def open(self) -> None:
        """Take requests, on this connection and those to come."""
        self._is_open = True
        self._renew()

    async def close(self) -> None:
        """Take no more, on no connection; return when what was delivered has been taken."""
        self._is_open = False
        self._stop_clock()
        try:
            await self._nc.end_grants()
        except nats.errors.Error as error:
            log.warning("subscription not drained", error=str(error))

    async def idle(self) -> None:
        """Return when no request is in flight."""
        await self._idle.wait()

    def enter(self) -> None:
        """Count a request as in flight."""
        if self.in_flight == 0:
            self._idle.clear()
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request as answered; its room is given to the server again, with that of others."""
        self.in_flight -= 1
        self._answered += 1
        if self.in_flight == 0:
            self._idle.set()
        if self._limit - self.in_flight >= self._quarter:
            self._renew()

    @property
    def without_s(self) -> float:
        """Seconds, since the start, in which some subject had no grant: this task was full."""
        return self._without_s + self._empty_s

    @property
    def _empty_s(self) -> float:
        return time.monotonic() - self._empty_since_s if self._empty_since_s is not None else 0.0

    def recent_share_without(self) -> float:
        """The share of the last 10 to 20 seconds, or of the time since it was last asked for, in which it was full."""
        now_s, without_s = time.monotonic(), self.without_s
        if now_s - self._marks[1][0] > RECENT_S:
            self._marks = self._marks[1], (now_s, without_s)
        since_s, before_s = self._marks[0]
        return (without_s - before_s) / max(now_s - since_s, 1e-9)

    def _renew(self) -> None:
        if not self._is_open or not self._nc.is_connected:
            return
        self._measure()
        room = self._limit - self.in_flight
        if room < self._quarter:
            if not all(window.outstanding for window in self._windows):
                self._start_clock()  # a new connection, and as many in flight as there may be
            return
        granted = False
        for window in self._windows:
            quarters = (room - window.outstanding) // self._quarter
            if quarters > 0:
                deliver = self._deliver(window, window.add(quarters * self._quarter, self._empty_s))
                for _ in range(quarters):
                    self._nc.grant(window.subject, window.queue, self._quarter, deliver)
                granted = True
        if granted and all(window.outstanding for window in self._windows):
            self._stop_clock()

    def _measure(self) -> None:
        passed_s = time.monotonic() - self._answered_since_s
        if passed_s >= RATE_S:
            self._limit = min(self._most, max(self._least, int(AHEAD_S * self._answered / passed_s)))
            self._answered, self._answered_since_s = 0, self._answered_since_s + passed_s

    def _deliver(self, window: _Window, grants: _Grants) -> Callable[[Msg | None, bool], Awaitable[None]]:
        async def deliver(msg: Msg | None, counted: bool) -> None:
            if counted:
                self._without_s += window.use(grants)
                if window.outstanding == 0 and self._is_open:
                    self._start_clock()
            if msg is not None:
                await window.take(msg)
            elif window.outstanding == 0:
                self._renew()

        return deliver

    def _forget(self) -> None:
        for window in self._windows:
            window.forget()
        self._stop_clock()

    def _start_clock(self) -> None:
        if self._empty_since_s is None:
            self._empty_since_s = time.monotonic()

    def _stop_clock(self) -> None:
        if self._empty_since_s is not None:
            self._without_s += self._empty_s
            self._empty_since_s = None
