"""What is on its way to clients: bounded, and given back when a client goes away before it has it.

The bound is on all calls together. HTTP/2 lets a client take its time, and what it does not read waits here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from service.queue import response
from service.queue.response import RESPONSE_BYTES
from service.sources.source import Message, Source

UNREAD_BYTES: Final = 8_000_000
"""What clients have not read yet; while it is more, none is received. A byte takes two of memory."""
LEAST_BYTES: Final = 1_200_000
"""A receive is asked for so much whatever the others are asked for: any message of SQS fits."""
PATIENCE_S: Final = 1.0
"""For so long messages that have come wait for others to be read."""

Context = grpc.aio.ServicerContext[Any, Any]


class Full(Exception):
    """Clients leave too much unread."""


@dataclass(eq=False, slots=True)
class Parcel:
    """Messages and the response that carries them."""

    messages: Sequence[Message]
    response: bytes
    until: float
    """Invisible to others at least until then, by the monotonic clock: later they are another's to have."""


class Outbox:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._unread = 0
        self._asked = 0
        """Bytes that open receives may still bring."""
        self._read = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Nothing waits for clients to read any longer."""
        self._stopping = True
        self._read.set()

    async def receive(self, limit: int, visibility_s: int, wait_s: float) -> Parcel:
        """Raises `Unavailable`, and `Full`."""
        await self._room(UNREAD_BYTES, max(wait_s, PATIENCE_S))
        until = time.monotonic() + visibility_s
        messages = await self._receive(limit, visibility_s, wait_s)
        carried = 0
        try:
            if messages:
                await self._room(2 * UNREAD_BYTES - sum(message.size for message in messages), PATIENCE_S)
            data, carried = response.make(messages, self._source.receipt)
        finally:
            self._give_back(messages[carried:], until)
        for message in messages:
            message.data = b""  # the response has it
        return Parcel(messages[:carried], data, until)

    async def send(self, parcel: Parcel, context: Context) -> None:
        """Return when the client's connection has taken it. Raises `CancelledError` when the client is gone."""
        size = len(parcel.response)
        self._unread += size
        try:
            await context.write(parcel.response)
        except grpc.aio.InternalError:
            self._give_back(parcel.messages, parcel.until)
            raise asyncio.CancelledError from None
        except BaseException:
            self._give_back(parcel.messages, parcel.until)
            raise
        finally:
            self._unread -= size
            self._read.set()
            self._read.clear()

    async def _receive(self, limit: int, visibility_s: int, wait_s: float) -> list[Message]:
        room = min(RESPONSE_BYTES, max(LEAST_BYTES, (UNREAD_BYTES - self._unread - self._asked) // 2))
        self._asked += room
        try:
            return await self._source.receive(limit, room, visibility_s, wait_s)
        finally:
            self._asked -= room

    async def _room(self, limit: int, wait_s: float) -> None:
        """Return when clients have left no more than `limit` bytes unread. Raises `Full` when that takes too long."""
        if self._unread <= limit:
            return
        try:
            async with asyncio.timeout(wait_s):
                while self._unread > limit and not self._stopping:
                    await self._read.wait()
        except TimeoutError:
            pass
        if self._unread > limit:
            raise Full

    def _give_back(self, messages: Sequence[Message], until: float) -> None:
        if messages and time.monotonic() < until:
            self._source.give_back(messages)
