"""Acknowledgements that the server confirms, any number of them on their way at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import nats.errors

from service.nats.client import NatsClient
from service.nats.parser import Read, raw

CONFIRM_S: Final = 2.0
ATTEMPTS: Final = 2
"""For what may come twice."""
POLL_S: Final = 0.05
GATHER_S: Final = 0.001
DELETE: Final = b""


@dataclass(eq=False)
class _Batch:
    """What was sent together, and what of it is confirmed."""

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
    """A reply for each: one confirmation for a whole batch would vouch for those that a reconnect had lost."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._waiting: dict[bytes, tuple[_Batch, int]] = {}
        """By the subject of the reply."""
        self._number = 0
        self._inbox = ""
        self._gathered: list[tuple[_Batch, str, str]] = []
        """Single deletions that are not sent yet, each with its subject and that of its reply."""
        self._timer: asyncio.TimerHandle | None = None
        self._company = 0
        """How many deletions went together lately."""

    async def start(self) -> None:
        self._inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(f"{self._inbox}.*")
        self._nc.deliver(subscription, self._on_replies)

    async def send(self, answers: Sequence[tuple[str, bytes]], attempts: int) -> list[bool]:
        """Whether the server confirmed each (subject, payload). What it did not is sent again, in so many attempts.

        `attempts` is 1 for what makes a message visible: the first may have counted, and the second then takes it from
        whoever has received it since. None waits for a lost connection, for the same reason.
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
        """The connection is lost: what is not confirmed is sent again once it is back."""
        for batch, _ in self._waiting.values():
            batch.end()
        self._gathered.clear()

    async def _connected(self) -> bool:
        until = time.monotonic() + CONFIRM_S
        while not self._nc.is_connected and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
        return self._nc.is_connected

    async def _attempt(self, answers: Sequence[tuple[str, bytes]], left: Sequence[int], confirmed: list[bool]) -> None:
        loop = asyncio.get_running_loop()
        batch = _Batch(confirmed, len(left), loop.create_future())
        timer = loop.call_later(CONFIRM_S, batch.end)
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
            pass  # what is not confirmed is told
        finally:
            timer.cancel()
            for sent in inboxes:
                self._waiting.pop(sent, None)

    def _gather(self, batch: _Batch, subject: str, inbox: str) -> None:
        """Let a deletion wait a millisecond for others, where there are any: one write carries them all.

        Who deletes one after the other never waits. What makes a message visible does not wait either.
        """
        self._gathered.append((batch, subject, inbox))
        if len(self._waiting) == 1 and self._company <= 1:
            self._send_gathered()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._send_gathered)

    def _send_gathered(self) -> None:
        self._timer = None
        gathered, self._gathered = self._gathered, []
        self._company = max(len(gathered), self._company - 1)
        for batch, subject, inbox in gathered:
            try:
                self._nc.post(subject, DELETE, reply=inbox)
            except nats.errors.Error:
                batch.end()  # what is not confirmed is told

    def _on_replies(self, read: Read) -> None:
        for subject, _, _, headers in raw(read):
            if b" 503" not in headers[:16] and (waiting := self._waiting.pop(subject, None)):
                batch, number = waiting
                batch.confirm(number)
