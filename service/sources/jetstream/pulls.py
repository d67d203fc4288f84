"""Pull requests to a durable consumer, each with its own subscription, parsed straight from the wire.

A pulled message carries its original subject, so only its subscription shows which pull it belongs to. A status
message has an empty reply subject. A message that arrives after its pull has ended is given back to the server.
nats-py's `fetch` costs three times as much per message, has no `max_bytes`, and drops messages with a header `Status`.

Pulls: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import nats.errors
import orjson
from nats.aio.subscription import Subscription

from service.nats.client import NatsClient, roundtrip
from service.nats.parser import Read, raw
from service.sources.jetstream.message import Arrival, arrival, handles
from service.sources.jetstream.visibility import NAK, NS
from service.sources.jetstream.wire import Position

GRACE_S: Final = 2.0
"""Seconds that a pull waits, after it expires, for the server's status."""
SHORT_S: Final = 0.5
"""Shortest expiry of a pull: at the consumer's max_ack_pending, `no_wait` without an expiry hangs."""

LINGER_S: Final = 0.1
"""Seconds that a pull waits for each next message after its first one."""
TICK_S: Final = 0.25
LATE_S: Final = 1.0
"""Seconds after a suspension of this process in which messages received meanwhile may still be read."""

Note = Callable[[Position], None]
"""Note a delivery. Called in order of arrival."""


_USUAL: Final = (
    b"404 No Messages", b"408", b"409 Batch Completed", b"409 Message Size Exceeds MaxBytes",
    b"409 Leadership Change", b"409 Server Shutdown",
)  # fmt: skip
"""Statuses after which to pull again. Any other status means that no pull will bring anything.

https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md#status-codes
"""
_PENDING: Final = re.compile(rb"\r\nNats-Pending-Messages: *(\d+)\r\n")


@dataclass(eq=False)
class Pull:
    """The messages of one pull, and how it ended."""

    inbox: bytes
    limit: int
    begun: asyncio.Future[None]
    """Done when a message has come, or none will."""
    done: asyncio.Future[None]
    """Done when the server has ended the pull, or this process has given it up."""
    asked_s: float
    """When the server was asked, on the monotonic clock: it has sent no message of the pull before that."""
    messages: list[Arrival] = field(default_factory=list)
    since_s: float = 0.0
    """Arrival of the first message, on the monotonic clock."""
    status: bytes = b""
    expected: int = 0
    """Messages that will come: the limit, less those that the server says it will not send."""

    def __post_init__(self) -> None:
        self.expected = self.limit

    @property
    def ended(self) -> bool:
        """True when all messages that the server sent for this pull have come.

        With replicas, the status may overtake messages whose delivery is still being replicated.
        """
        return len(self.messages) >= self.expected

    @property
    def is_refused(self) -> bool:
        """True if the status is unusual: no such consumer, or a request that it does not accept."""
        return bool(self.status) and not self.status.startswith(_USUAL)

    @property
    def said(self) -> str:
        """The server's status, for an operator."""
        return self.status.decode(errors="replace").replace("503", "no responders (503)")

    @property
    def found_nothing(self) -> bool:
        """True if the pull expired without a message."""
        return not self.messages and self.status.startswith(b"408")

    @property
    def exceeds_max_bytes(self) -> bool:
        """True if the next message exceeds `max_bytes`: it blocks every pull with this limit."""
        return self.status.startswith(b"409 Message Size Exceeds MaxBytes")

    def take(self, messages: Sequence[Arrival]) -> None:
        if not self.messages:
            self.since_s = time.monotonic()
            if not self.begun.done():
                self.begun.set_result(None)
        self.messages += messages
        if self.ended:
            self.give_up()

    def end(self, status: bytes, pending: int | None) -> None:
        """Note the status. `pending` messages will not come; None: the server gives no number, and no more come."""
        self.status = status
        self.expected = 0 if pending is None else self.limit - pending
        if self.ended:
            self.give_up()

    def give_up(self) -> None:
        for waiting in (self.begun, self.done):
            if not waiting.done():
                waiting.set_result(None)

    async def wait(self, timeout_s: float, linger_max_s: float) -> None:
        """Return when it is done, or shortly after its first message; without one, after `timeout_s`.

        At the consumer's max_ack_pending, the server keeps the pull open and sends messages as others are acknowledged.
        """
        await asyncio.wait([self.begun], timeout=timeout_s)
        while self.messages and not self.done.done():
            had = len(self.messages)
            await asyncio.wait([self.done], timeout=LINGER_S)
            # Nothing more came in a while, or it has waited long enough: hand out what there is.
            if len(self.messages) == had or time.monotonic() - self.since_s > linger_max_s:
                break


class _Slot:
    """A subscription that serves one pull at a time."""

    def __init__(self, nc: NatsClient, note: Note, may_be_late: Callable[[float], bool]) -> None:
        self._nc = nc
        self._note = note
        self._may_be_late = may_be_late
        self._base = nc.new_inbox()
        self._number = 0
        self.subscription: Subscription | None = None
        self.pull: Pull | None = None
        self._asked_s = 0.0
        """When its last pull was asked for."""

    async def open(self) -> None:
        self.subscription = await self._nc.subscribe(f"{self._base}.*")
        self._nc.deliver(self.subscription, self._on_messages)

    def begin(self, limit: int) -> Pull:
        self._number += 1
        loop = asyncio.get_running_loop()
        self._asked_s = time.monotonic()
        inbox = f"{self._base}.{self._number}".encode()
        self.pull = Pull(inbox, limit, loop.create_future(), loop.create_future(), self._asked_s)
        return self.pull

    async def abandon(self) -> None:
        """Unsubscribe, so that the server drops the pull; give back messages that still arrive."""
        if self.subscription is None:
            return
        try:
            await self.subscription.unsubscribe()
            await roundtrip(self._nc)
        except nats.errors.Error:
            pass  # a lost connection ends both the subscription and the pull
        finally:
            self._nc.end_delivery(self.subscription)

    def _on_messages(self, read: Read) -> None:
        messages: list[Arrival] = []
        for subject, reply, data, headers in raw(read):
            try:
                if reply:
                    new = arrival(subject, reply, data, headers)
                    self._note(new[-1])
                    messages.append(new)
                else:
                    self._hand_over(messages)
                    messages = []
                    self._end(subject, headers)
            except Exception as error:  # one bad message must not stop the next
                self._nc.drop(error)
        self._hand_over(messages)

    def _hand_over(self, messages: list[Arrival]) -> None:
        if not messages or self._may_be_late(self._asked_s):
            return
        # A status may overtake messages of its pull. They then go to the next pull, and may exceed its limit.
        room = self.pull.limit - len(self.pull.messages) if self.pull else 0
        if self.pull and room > 0:
            self.pull.take(messages[:room])
        if len(messages) > room:
            self._nc.post_each(handles(messages[room:]), NAK)

    def _end(self, subject: bytes, headers: bytes) -> None:
        status = headers.partition(b"\r\n")[0].removeprefix(b"NATS/1.0").strip()
        if self.pull is not None and subject == self.pull.inbox and not status.startswith(b"100"):
            pending = _PENDING.search(headers)
            self.pull.end(status, int(pending[1]) if pending else None)


class Pulls:
    """A pool of subscriptions for pulls of one consumer."""

    def __init__(self, nc: NatsClient, stream: str, consumer: str, note: Note, ack_wait_s: Callable[[], float]) -> None:
        self._nc = nc
        self._note = note
        self._ack_wait_s = ack_wait_s
        self._late_after_s = math.inf
        """If the next tick comes later than this, the process was suspended for too long."""
        self._late_until_s = -math.inf
        self._ticking: asyncio.TimerHandle | None = None
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._free: list[_Slot] = []
        self._pulls: set[Pull] = set()
        self._abandoning: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def pull(self, limit: int, max_bytes: int, expires_s: float) -> AsyncIterator[Pull]:
        """Pull up to `limit` messages: those available now, else the first to come within `expires_s`.

        Raises `nats.errors.Error` when the request cannot be sent. Leaving the block before the pull has ended
        abandons it; leaving with an exception also gives its messages back.
        """
        slot = self._free.pop() if self._free else await self._open()
        pull = slot.begin(limit)
        asked: dict[str, object] = {"batch": limit, "expires": int(max(expires_s, SHORT_S) * NS), "no_wait": True}
        if limit > 1:  # max_bytes costs a status message per pull, and one message must come whatever its size
            asked["max_bytes"] = max_bytes
        self._pulls.add(pull)
        try:
            self._nc.post(self._subject, orjson.dumps(asked), reply=pull.inbox.decode())
            yield pull
        except BaseException:
            self.give_back(handles(pull.messages))
            raise
        finally:
            self._pulls.discard(pull)
            slot.pull = None
            if pull.ended:
                self._free.append(slot)
            else:
                task = asyncio.create_task(slot.abandon(), name="abandon")
                self._abandoning.add(task)
                task.add_done_callback(self._abandoning.discard)

    def give_up(self) -> None:
        """Let every open pull return now."""
        for pull in self._pulls:
            pull.give_up()

    def give_back(self, held: Sequence[str]) -> None:
        """Make messages visible again at once. While disconnected, do nothing: the server redelivers them anyway."""
        if self._nc.is_connected:
            self._nc.post_each(held, NAK)

    async def _open(self) -> _Slot:
        slot = _Slot(self._nc, self._note, self._may_be_late)
        await slot.open()
        return slot

    def start(self) -> None:
        """Start to watch for suspensions of this process (a paused container, a suspended machine)."""
        now = time.monotonic()
        # A tick that comes later than planned shows how long the process did not run.
        if now >= self._late_after_s:
            self._late_until_s = now + LATE_S
        self._late_after_s = now + max(self._ack_wait_s() - TICK_S, 2 * TICK_S)
        self._ticking = asyncio.get_running_loop().call_later(TICK_S, self.start)

    def close(self) -> None:
        if self._ticking:
            self._ticking.cancel()

    def _may_be_late(self, asked_s: float) -> bool:
        """Return whether messages read now, of a pull asked for at `asked_s`, may already be another client's.

        They may when the process was suspended for too long, or the network may have held them: nothing says when the
        server sent a message, except that it was after it was asked. Leave those alone: handing one out would process
        it twice, and a NAK would take it from the other client.
        """
        now = time.monotonic()
        return not self._late_until_s <= now < self._late_after_s or now - asked_s >= self._ack_wait_s()

    async def settle(self) -> None:
        """Return when messages on their way to abandoned pulls have been given back."""
        if self._abandoning:
            await asyncio.wait(self._abandoning)
