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
from service.queue import sqs_pb2 as pb
from service.queue.response import RESPONSE_BYTES
from service.sources.source import Message, Source

UNREAD_BYTES: Final = 16_000_000
"""Messages that clients have not read yet; while there are more, none is received."""
LEAST_BYTES: Final = 1_200_000
"""A receive is asked for so much whatever the others are asked for: any message of SQS fits."""

Context = grpc.aio.ServicerContext[Any, Any]


class Full(Exception):
    """Clients leave too much unread."""


@dataclass(eq=False, slots=True)
class Parcel:
    """Messages and the response that carries them."""

    messages: Sequence[Message]
    response: pb.SQSReceiveMessageResponse
    size: int
    until: float
    """Invisible to others at least until then, by the monotonic clock: later they are another's to have."""


class Outbox:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._unread = 0
        self._asked = 0
        """Bytes that open receives may still bring."""

    @property
    def is_full(self) -> bool:
        return self._unread >= UNREAD_BYTES

    async def receive(self, limit: int, visibility_s: int, wait_s: float) -> Parcel:
        """Raises `Unavailable`, and `Full`."""
        until = time.monotonic() + visibility_s
        messages = await self._receive(limit, visibility_s, wait_s)
        size = sum(message.size for message in messages)
        if messages and self._unread + size > 2 * UNREAD_BYTES:
            self._give_back(messages, until)
            raise Full
        made = response.make(messages, self._source.receipt)
        carried = len(made.messages)
        self._give_back(messages[carried:], until)
        for message in messages:
            message.data = b""  # the response has it
        return Parcel(messages[:carried], made, size, until)

    async def send(self, parcel: Parcel, context: Context) -> None:
        """Return when the client's connection has taken it. Raises `CancelledError` when the client is gone."""
        self._unread += parcel.size
        try:
            await context.write(parcel.response)
        except grpc.aio.InternalError:
            self._give_back(parcel.messages, parcel.until)
            raise asyncio.CancelledError from None
        except BaseException:
            self._give_back(parcel.messages, parcel.until)
            raise
        finally:
            self._unread -= parcel.size

    async def _receive(self, limit: int, visibility_s: int, wait_s: float) -> list[Message]:
        if self.is_full:
            raise Full
        room = min(RESPONSE_BYTES, max(LEAST_BYTES, (UNREAD_BYTES - self._unread - self._asked) // 2))
        self._asked += room
        try:
            return await self._source.receive(limit, room, visibility_s, wait_s)
        finally:
            self._asked -= room

    def _give_back(self, messages: Sequence[Message], until: float) -> None:
        if messages and time.monotonic() < until:
            self._source.give_back(messages)
