"""Admission by credit: the server may deliver only as many requests as this task can answer soon.

A grant is a queue subscription that ends by itself after a fixed number of messages. The room is the number of
requests that this task accepts at a time: what it answers in a quarter of a second, at least `LEAST`, at most
`max_in_flight`. As requests are answered, new grants are made, each for a piece of the least room; the more are open,
the more a server sends here. So no request waits in a socket until its requester has given up
(docs/adr/0011-credit.md).

The server sends what this task has no room for to other tasks of the queue group; when none has room, it answers the
requester with "no responders" at once. But another node or cluster learns late that a grant has ended, and what it
sends until then is lost silently. So each subject keeps one more grant open, the overdraft: this task itself answers
requests beyond the room with "no responders", in the server's format.

| state | grants | overdraft | left by |
| --- | --- | --- | --- |
| closed | none | none | `open` |
| room | `outstanding` of each subject, renewed | open; requests are taken while there is room | the room is used up |
| full | what is left of them | open; requests are turned away | a quarter of the room is free again |
| dry: full, and the allowance is used up | what is left of them | none: the server says "no responders" | the same |
| not connected | none: they ended with the connection | none | a new connection: grants are made for the room |
| closed for good | none, nor on later connections | none | |

`RATIO` requests of the overdraft may be turned away for each that is answered, so that answers keep most of the CPU.
A full task takes requests again only when a quarter of the room is free; otherwise they would come in tiny bursts,
which cost several times as much as long ones.

Every subject has the whole room, so the grants of a quiet subject take nothing from the others. Requests in flight
count across all subjects: a grant is made only while they leave room, and requests beyond it are turned away.

Time without credit tells an operator that a task is full. A task that is throttled at its CPU quota cannot see its
grants run out; when it finds that they had, the time since they were made counts, up to `SLEEP_S`.
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

from service.nats.client import NatsClient
from service.nats.parser import Read
from service.nats.srv import are_inboxes, is_inbox
from service.requests.grants import Take, Window

log: Final = structlog.get_logger("service.micro")

LEAST: Final = 1024
"""Least room in requests, however slow the task: this or half of `max_in_flight`, if more; at most `max_in_flight`."""
AHEAD_S: Final = 0.25
"""Seconds of answers to hold: longer than throttling stops a task, shorter than a requester waits."""
RATE_S: Final = 1.0
RECENT_S: Final = 10.0
PIECES: Final = 16
"""Grants that make up the least room. A task with less room left has fewer open, and is sent less."""
OVERDRAFT: Final = 4096
"""Requests beyond the room that the server may deliver at once."""
RATIO: Final = 1.0
"""Requests that may be turned away for each that is answered."""
FREE: Final = 0.25
"""Share of the room that must be free before a full task takes requests again."""

NO_RESPONDERS: Final = " 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
"""https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-4.md"""


class Credit:
    """The room for requests, and how much of it is used. Count requests in with `enter`, and out with `leave`."""

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
        nc.on_lost.append(self._forget)
        nc.on_reconnected.append(self._renew)

    def add(self, subject: str, queue: str, take: Take) -> None:
        """Register `take` for the requests to `subject`, once per read; it must start the work and return."""
        window = Window(subject, queue, take)
        window.on_read = partial(self._on_read, window)
        self._windows.append(window)

    def open(self) -> None:
        """Take requests, on this connection and later ones."""
        self._is_open = True
        self._renew()

    async def close(self) -> None:
        """Stop taking requests, on any connection; return when those delivered have been taken."""
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
        """Count requests as answered; grant their room again once enough of it is free."""
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
        """Seconds since the start in which some subject had no grant because this task was full."""
        return self._without_s + self._empty_s

    @property
    def _empty_s(self) -> float:
        return time.monotonic() - self._empty_since_s if self._empty_since_s is not None else 0.0

    def recent_share_without(self) -> float:
        """Return the share of time without credit over the last 10 to 20 seconds, or longer if calls are rare."""
        now_s, without_s = time.monotonic(), self.without_s
        if now_s - self._marks[1][0] > RECENT_S:
            self._marks = self._marks[1], (now_s, without_s)
        since_s, before_s = self._marks[0]
        return (without_s - before_s) / max(now_s - since_s, 1e-9)

    def _renew(self) -> None:
        """Bring each subject's grants up to the room. The clock runs while a subject has none, or the task is full."""
        if not self._is_open or not self._nc.is_connected:
            return
        self._measure()
        for window in self._windows:
            self._overdraw(window)
        room = 0 if self._is_full else self._limit - self.in_flight
        for window in self._windows:
            # Outstanding requests may still arrive on top of those in flight: grant the difference, in whole pieces.
            pieces = (room - window.outstanding) // self._piece
            if pieces > 0:
                grant = partial(self._nc.grant, window.subject, window.queue, self._piece, window.on_read)
                window.add([grant() for _ in range(pieces)], self._piece, self._empty_s)
        if self._is_full or not all(window.outstanding for window in self._windows):
            self._start_clock()
        else:
            self._stop_clock()

    def _overdraw(self, window: Window) -> None:
        """Replace an overdraft that is half used up. The new one is for as many requests as may be turned away now."""
        last, left = next(reversed(window.overdraft.items()), ("", 0))
        limit = int(self._spare)
        # A new one must add an eighth, or every few requests turned away would cost the server a subscription.
        if not self._is_open or left > OVERDRAFT // 2 or limit < left + OVERDRAFT // 8:
            return
        sid = self._nc.grant(window.subject, window.queue, limit, window.on_read)
        if last:
            self._nc.end_grant(last)  # after the new one, so that the subject always has a subscription
        window.overdraft = {last: left, sid: limit} if last else {sid: limit}

    def _measure(self) -> None:
        """Set the room from the rate of answers, at most once every `RATE_S` seconds."""
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
        if window.outstanding == 0 and self.in_flight == 0:  # nothing was decodable: no answer will renew
            self._renew()

    def _within_room(self, window: Window, read: Read) -> Read:
        """Turn away the requests there is no room for; return the others."""
        counts = Counter(read.sids)
        for sid in window.overdraft:
            window.overdraft[sid] = max(0, window.overdraft[sid] - counts[sid])
        room = max(0, self._limit - self.in_flight)
        if room == 0 or (self._is_full and counts.keys() <= window.overdraft.keys()):
            self._turn_away(window, read.replies)
            return Read((), (), (), (), ())
        # Granted requests come first: the server was promised room for them. The overdraft gets what remains.
        granted = [number for number, sid in enumerate(read.sids) if sid not in window.overdraft]
        overdrawn = [number for number, sid in enumerate(read.sids) if sid in window.overdraft]
        away = {*granted[room:], *overdrawn[0 if self._is_full else max(0, room - len(granted)) :]}
        if not away:
            return read
        self._turn_away(window, [read.replies[number] for number in away])
        return Read(*[[value for number, value in enumerate(column) if number not in away] for column in read])

    def _turn_away(self, window: Window, replies: Sequence[str]) -> None:
        """Answer "no responders", as the server does when no task has room."""
        self.turned_away += len(replies)
        self._spare = max(0.0, self._spare - len(replies))
        self._start_clock()
        if not are_inboxes(replies):
            texts = [reply.encode("latin-1").decode(errors="replace") for reply in replies]
            replies = [text for text in texts if is_inbox(text)]
        if replies:
            with contextlib.suppress(nats.errors.Error):  # no worse than without an overdraft
                self._nc.post_frames(f"HPUB {f'{NO_RESPONDERS}HPUB '.join(replies)}{NO_RESPONDERS}", [0] * len(replies))
        self._overdraw(window)

    def _forget(self) -> None:
        """Drop all grants: they ended with the connection. Time without a connection is not time without credit."""
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
