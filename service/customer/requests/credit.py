"""Admission by credit: the server is given room for as many requests as can be answered soon, and no more.

A grant is a queue subscription that ends by itself after so many messages. There is room for 1,024 requests, or for
what this task answers in a quarter of a second, where that is more; `max_in_flight` is the most. Grants are made in
pieces of the least room, as requests are answered: the more of them are open, the more a server sends here. So nothing
waits in a socket until its requester has given up (docs/adr/0011-credit.md).

What this task has no room for, the server gives to other tasks of the queue group; when none has room, it tells the
requester "no responders" at once. But another node or cluster hears late that a grant has ended, and what it sends
meanwhile is lost without a word. So one more grant of each subject, the overdraft, stays open: what it brings beyond
the room is told "no responders" here, in the server's own form.

| state | grants | overdraft | left by |
| --- | --- | --- | --- |
| closed | none | none | `open` |
| room | `outstanding` of each subject, renewed | open; taken while there is room | the room is used up |
| full | those that are left | open; turned away | a quarter of the room is free again |
| dry: full, and the allowance is used up | those that are left | none: the server says "no responders" | the same |
| not connected | none: they ended with the connection | none | a new connection: made again, for the room there is |
| closed for good | none, on no connection yet to come | none | |

Of the overdraft, `RATIO` requests may be turned away for each that is answered, so that answers keep most of the CPU.
A full task takes again only when a quarter of the room is free: what there is earlier would come in tiny bursts, which
cost a multiple of long ones.

Every subject has the whole room: one that nobody asks for holds its grants back from no other. The requests in flight
are the service's: a grant is made only while all of them leave room, and what comes beyond it is turned away.

Time without credit is the operator's sign that a task is full. A task that sleeps, because its CPU is used up, does not
see that its grants are used up too: when they turn out to have been, all the time since they were made counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

import nats.errors
import structlog

from service.customer.requests.grants import Take, Window
from service.nats.client import NatsClient
from service.nats.parser import Read
from service.nats.srv import are_inboxes, is_inbox

log: Final = structlog.get_logger("service.micro")

LEAST: Final = 1024
"""Requests that there is room for however slow the task is, unless `max_in_flight` is less, or its half is more."""
AHEAD_S: Final = 0.25
"""A task without CPU sleeps for less, and a requester waits for longer."""
RATE_S: Final = 1.0
RECENT_S: Final = 10.0
PIECES: Final = 16
"""Grants for the least room. A task with less room has fewer open, and is sent less."""
OVERDRAFT: Final = 4096
"""Requests beyond the room that the server may deliver at once."""
RATIO: Final = 1.0
"""Requests that may be turned away for each that is answered."""
FREE: Final = 0.25
"""The share of the room that is free when a task that was full takes requests again."""

NO_RESPONDERS: Final = " 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
"""https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-4.md"""


class Credit:
    """The room for requests, and how much of it is taken. Each request enters and leaves."""

    def __init__(self, nc: NatsClient, max_in_flight: int) -> None:
        self.in_flight = 0
        self._nc = nc
        self._most = max_in_flight
        self._least = min(max_in_flight, max(LEAST, max_in_flight // 2))
        self._piece = max(1, self._least // PIECES)
        self._is_full = False
        self._spare = float(OVERDRAFT)
        """Requests that may be turned away now."""
        self.turned_away = 0
        self._limit = self._least
        self._answered = 0
        self._answered_since_s = time.monotonic()
        self._windows: list[Window] = []
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
        window = Window(subject, queue, take)
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
        if self.in_flight >= self._limit:
            self._is_full = True
            self._start_clock()

    def leave(self, count: int) -> None:
        """Count requests as answered; their room is given to the server again, with that of others."""
        self.in_flight -= count
        self._answered += count
        self._spare = min(OVERDRAFT, self._spare + RATIO * count)
        if self.in_flight == 0:
            self._idle.set()
        if self._limit - self.in_flight >= max(self._piece, FREE * self._limit if self._is_full else 0):
            self._is_full = False
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
        for window in self._windows:
            self._overdraw(window)
        room = 0 if self._is_full else self._limit - self.in_flight
        for window in self._windows:
            pieces = (room - window.outstanding) // self._piece
            if pieces > 0:
                grant = partial(self._nc.grant, window.subject, window.queue, self._piece, window.on_read)
                window.add([grant() for _ in range(pieces)], self._piece, self._empty_s)
        if self._is_full or not all(window.outstanding for window in self._windows):
            self._start_clock()
        else:
            self._stop_clock()

    def _overdraw(self, window: Window) -> None:
        """Make a new overdraft where half of the last one is used up, as large as may be turned away now."""
        last, left = next(reversed(window.overdraft.items()), ("", 0))
        limit = int(self._spare)
        if not self._is_open or left > OVERDRAFT // 2 or limit < left + OVERDRAFT // 8:
            return
        sid = self._nc.grant(window.subject, window.queue, limit, window.on_read)
        if last:
            self._nc.end_grant(last)  # behind the new one, so that there is interest at every moment
        window.overdraft = {last: left, sid: limit} if last else {sid: limit}

    def _measure(self) -> None:
        passed_s = time.monotonic() - self._answered_since_s
        if passed_s >= RATE_S:
            self._limit = min(self._most, max(self._least, int(AHEAD_S * self._answered / passed_s)))
            self._answered, self._answered_since_s = 0, self._answered_since_s + passed_s

    def _on_read(self, window: Window, read: Read) -> None:
        self._without_s += window.use(read.sids, self._nc.spend)
        if self.in_flight + len(read.sids) > self._limit or not window.overdraft.keys().isdisjoint(read.sids):
            read = self._within_room(window, read)
        if window.outstanding == 0 and self._is_open:
            self._start_clock()
        if read.sids:
            window.take(read)
        if window.outstanding == 0 and self.in_flight == 0:  # nothing of it could be decoded
            self._renew()

    def _within_room(self, window: Window, read: Read) -> Read:
        """Turn away what there is no room for. Returns the rest."""
        counts = Counter(read.sids)
        for sid in window.overdraft:
            window.overdraft[sid] = max(0, window.overdraft[sid] - counts[sid])
        room = max(0, self._limit - self.in_flight)
        if room == 0 or (self._is_full and counts.keys() <= window.overdraft.keys()):
            self._turn_away(window, read.replies)
            return Read((), (), (), (), ())
        granted = [number for number, sid in enumerate(read.sids) if sid not in window.overdraft]
        overdrawn = [number for number, sid in enumerate(read.sids) if sid in window.overdraft]
        away = {*granted[room:], *overdrawn[0 if self._is_full else max(0, room - len(granted)) :]}
        if not away:
            return read
        self._turn_away(window, [read.replies[number] for number in away])
        return Read(*[[value for number, value in enumerate(column) if number not in away] for column in read])

    def _turn_away(self, window: Window, replies: Sequence[str]) -> None:
        """Tell requesters that there are no responders, as the server does when no task has room."""
        self.turned_away += len(replies)
        self._spare = max(0.0, self._spare - len(replies))
        self._start_clock()
        if not are_inboxes(replies):
            texts = [reply.encode("latin-1").decode(errors="replace") for reply in replies]
            replies = [text for text in texts if is_inbox(text)]
        if replies:
            with contextlib.suppress(nats.errors.Error):  # as lost as if there had been no overdraft
                self._nc.post_frames(f"HPUB {f'{NO_RESPONDERS}HPUB '.join(replies)}{NO_RESPONDERS}", [0] * len(replies))
        self._overdraw(window)

    def _forget(self) -> None:
        for window in self._windows:
            window.forget()
        self._stop_clock()

    def _start_clock(self) -> None:
        if self._empty_since_s is None and self._is_open:
            self._empty_since_s = time.monotonic()

    def _stop_clock(self) -> None:
        if self._empty_since_s is not None:
            self._without_s += self._empty_s
            self._empty_since_s = None
