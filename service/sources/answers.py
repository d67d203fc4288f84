"""Acknowledgements that the server confirms, any number of them on their way at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import nats.errors

from service.runtime.nats_client import NatsClient

CONFIRM_S: Final = 2.0
ATTEMPTS: Final = 2
POLL_S: Final = 0.05


class Answers:
    """A reply for each: one confirmation for a whole batch would vouch for those that a reconnect had lost."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._number = 0
        self._inbox = ""

    async def start(self) -> None:
        self._inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(f"{self._inbox}.*")
        self._nc.deliver_raw(subscription, self._on_reply)

    async def send(self, answers: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Whether the server confirmed each (subject, payload). What it did not is sent once more.

        None waits for a lost connection: what makes a message visible could arrive when another client has it.
        """
        confirmed = [False] * len(answers)
        for _ in range(ATTEMPTS):
            left = [number for number, done in enumerate(confirmed) if not done]
            if not left:
                break
            if await self._connected():
                await self._attempt(answers, left, confirmed)
        return confirmed

    async def _connected(self) -> bool:
        until = time.monotonic() + CONFIRM_S
        while not self._nc.is_connected and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
        return self._nc.is_connected

    async def _attempt(self, answers: Sequence[tuple[str, bytes]], left: Sequence[int], confirmed: list[bool]) -> None:
        loop = asyncio.get_running_loop()
        posted: list[tuple[int, bytes, asyncio.Future[None]]] = []
        try:
            for number in left:
                self._number += 1
                inbox = f"{self._inbox}.{self._number}"
                future: asyncio.Future[None] = loop.create_future()
                self._waiting[inbox.encode()] = future
                posted.append((number, inbox.encode(), future))
                subject, payload = answers[number]
                self._nc.post(subject, payload, reply=inbox)
        except nats.errors.Error:
            pass  # what was not sent is not confirmed, and the caller is told so
        try:
            await asyncio.wait([future for _, _, future in posted], timeout=CONFIRM_S)
        finally:
            for number, inbox_bytes, future in posted:
                confirmed[number] = future.done()
                self._waiting.pop(inbox_bytes, None)

    def _on_reply(self, subject: bytes, _reply: bytes, _data: bytes, headers: bytes | None) -> None:
        future = self._waiting.get(subject)
        if future is not None and not future.done() and b" 503" not in (headers or b"")[:16]:
            future.set_result(None)
