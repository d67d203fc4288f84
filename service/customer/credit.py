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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import nats.errors
import structlog

from service.runtime.nats_client import NatsClient
from service.runtime.nats_parser import Callback, Read

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

Take = Callable[[Read], None]


class _Grants:
    """What was granted at one moment."""

    __slots__ = ("unseen_s", "untouched")

    def __init__(self, unseen_s: float) -> None:
        self.untouched = True
        self.unseen_s = unseen_s
        """Seconds without credit to count, if at the first delivery all grants before these are used up."""


class _Window:
    """One subject's grants, oldest first."""

    def __init__(self, subject: str, queue: str, take: Take) -> None:
        self.subject = subject
        self.queue = queue
        self.take = take
        self.on_read: Callback
        """One for all its grants: what they bring in one read comes together."""
        self.outstanding = 0
        """Requests that the server may still deliver."""
        self.granted_s: float | None = None
        """When grants were last made on this connection."""
        self._open: dict[str, tuple[_Grants, int]] = {}
        """By sid: what a grant belongs to, and how many messages of it are left."""

    def add(self, sids: Sequence[str], limit: int, empty_s: float) -> None:
        """Note further grants of `limit` each, made now; the subject was seen without any for the last `empty_s`."""
        now_s = time.monotonic()
        since_s = now_s - self.granted_s if self.granted_s is not None else 0.0
        self.granted_s = now_s
        total = limit * len(sids)
        grants = _Grants(max(0.0, min(since_s, SLEEP_S) - empty_s) if total >= TELLING else 0.0)
        self._open.update(dict.fromkeys(sids, (grants, limit)))
        self.outstanding += total

    def use(self, sids: Sequence[str], spend: Callable[[str], None]) -> float:
        """Note deliveries, by sid. Returns for how many seconds, unseen until now, the server had no credit.

        Messages beyond a grant's limit do not count: a busy server may deliver some.
        """
        unseen_s = 0.0
        for sid in dict.fromkeys(sids):
            grants, _ = self._open.get(sid, (None, 0))
            if grants and grants.untouched:
                grants.untouched = False
                if grants.unseen_s and self._is_oldest(grants, sids[: sids.index(sid)]):
                    unseen_s += grants.unseen_s
        for sid in set(sids):
            grants, left = self._open.get(sid, (None, 0))
            if grants is None:
                continue
            used = min(left, sids.count(sid))
            self.outstanding -= used
            if used < left:
                self._open[sid] = grants, left - used
            else:
                del self._open[sid]
                spend(sid)
        return unseen_s

    def _is_oldest(self, grants: _Grants, before: Sequence[str]) -> bool:
        """Whether all grants that were made earlier are used up, with deliveries of these sids."""
        for sid, (of, left) in self._open.items():
            if of is grants:
                return True
            if before.count(sid) < left:
                return False
        return True

    def forget(self) -> None:
        self._open.clear()
        self.outstanding = 0
        self.granted_s = None


class Credit:
    """The room for requests, and how much of it is taken. Each request enters and leaves."""

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
        window = _Window(subject, queue, take)
        window.on_read = partial(self._on_read, window)
        self._windows.append(window)

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

    def enter(self, count: int) -> None:
        """Count requests as in flight."""
        if count and self.in_flight == 0:
            self._idle.clear()
        self.in_flight += count

    def leave(self, count: int) -> None:
        """Count requests as answered; their room is given to the server again, with that of others."""
        self.in_flight -= count
        self._answered += count
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
                grant = partial(self._nc.grant, window.subject, window.queue, self._quarter, window.on_read)
                window.add([grant() for _ in range(quarters)], self._quarter, self._empty_s)
                granted = True
        if granted and all(window.outstanding for window in self._windows):
            self._stop_clock()

    def _measure(self) -> None:
        passed_s = time.monotonic() - self._answered_since_s
        if passed_s >= RATE_S:
            self._limit = min(self._most, max(self._least, int(AHEAD_S * self._answered / passed_s)))
            self._answered, self._answered_since_s = 0, self._answered_since_s + passed_s

    def _on_read(self, window: _Window, read: Read) -> None:
        self._without_s += window.use(read.sids, self._nc.spend)
        if window.outstanding == 0 and self._is_open:
            self._start_clock()
        window.take(read)
        if window.outstanding == 0 and self.in_flight == 0:  # nothing of it could be decoded
            self._renew()

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
