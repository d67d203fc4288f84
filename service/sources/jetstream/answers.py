"""Acknowledgements that the server confirms; any number may be in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import nats.errors

from service.nats.client import NatsClient
from service.nats.parser import Read, raw
from service.sources.jetstream.timing import Timing

ATTEMPTS: Final = 2
"""Attempts for an answer that may safely arrive twice."""
POLL_S: Final = 0.05
DELETE: Final = b""


@dataclass(eq=False)
class _Batch:
    """Answers sent together, and which of them are confirmed."""

    confirmed: list[bool]
    left: int
    done: asyncio.Future[None]

    def confirm(self, number: int) -> None:
        self.confirmed[number] = True
        self.left -= 1
        if not self.left:
            self.end()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Answers:
    """One reply per answer: a batch-wide one would also cover answers lost in a reconnect."""

    def __init__(self, nc: NatsClient, timing: Timing) -> None:
        self._nc = nc
        self._timing = timing
        self._waiting: dict[bytes, tuple[_Batch, int]] = {}
        """Reply subject -> batch, and place in it."""
        self._number = 0
        self._inbox = ""
        self._gathered: list[tuple[_Batch, str, str]] = []
        """Single deletions not sent yet: batch, subject, reply subject."""
        self._timer: asyncio.TimerHandle | None = None
        self._company = 0
        """How many deletions were sent together lately."""

    async def start(self) -> None:
        self._inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(f"{self._inbox}.*")
        self._nc.deliver(subscription, self._on_replies)

    async def send(self, answers: Sequence[tuple[str, bytes]], attempts: int) -> list[bool]:
        """Send each (subject, payload); return for each whether the server confirmed it within `attempts` attempts.

        An attempt waits up to `confirm_s` seconds for a connection, then as long for replies; it ends when the
        connection is lost. Pass 1 for an answer that makes a message visible: the first attempt may have counted, and
        a second one would take the message from its next receiver.
        """
        confirmed = [False] * len(answers)
        for _ in range(attempts):
            left = [number for number, done in enumerate(confirmed) if not done]
            if not left:
                break
            if await self._connected():
                await self._attempt(answers, left, confirmed)
        return confirmed

    def give_up(self) -> None:
        """End the current attempts, as the connection is lost. `send` tries again if it has attempts left."""
        for batch, _ in self._waiting.values():
            batch.end()
        self._gathered.clear()

    async def _connected(self) -> bool:
        until = time.monotonic() + self._timing.confirm_s
        while not self._nc.is_connected and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
        return self._nc.is_connected

    async def _attempt(self, answers: Sequence[tuple[str, bytes]], left: Sequence[int], confirmed: list[bool]) -> None:
        loop = asyncio.get_running_loop()
        batch = _Batch(confirmed, len(left), loop.create_future())
        timer = loop.call_later(self._timing.confirm_s, batch.end)
        inboxes: list[bytes] = []
        try:
            for number in left:
                self._number += 1
                inbox = f"{self._inbox}.{self._number}"
                inboxes.append(inbox.encode())
                self._waiting[inboxes[-1]] = batch, number
                subject, payload = answers[number]
                if len(left) == 1 and payload == DELETE:
                    self._gather(batch, subject, inbox)
                else:
                    self._nc.post(subject, payload, reply=inbox)
            await batch.done
        except nats.errors.Error:
            pass  # the caller sees what is not confirmed
        finally:
            timer.cancel()
            for sent in inboxes:
                self._waiting.pop(sent, None)

    def _gather(self, batch: _Batch, subject: str, inbox: str) -> None:
        """Hold a deletion for a millisecond if others are in flight, so that one write carries them all.

        A client that deletes one message after another never waits. Answers that make a message visible never wait.
        """
        self._gathered.append((batch, subject, inbox))
        if len(self._waiting) == 1 and self._company <= 1:
            self._send_gathered()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timing.gather_s, self._send_gathered)

    def _send_gathered(self) -> None:
        self._timer = None
        gathered, self._gathered = self._gathered, []
        self._company = max(len(gathered), self._company - 1)
        for batch, subject, inbox in gathered:
            try:
                self._nc.post(subject, DELETE, reply=inbox)
            except nats.errors.Error:
                batch.end()  # the caller sees what is not confirmed

    def _on_replies(self, read: Read) -> None:
        for subject, _, _, headers in raw(read):
            if b" 503" not in headers[:16] and (waiting := self._waiting.pop(subject, None)):
                batch, number = waiting
                batch.confirm(number)
