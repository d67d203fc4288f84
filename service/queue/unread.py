"""Responses on their way to clients: bounded, and given back if the client goes away first.

The bound covers all calls together. HTTP/2 lets a client read slowly, and what it has not read waits here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.grpc.calls import Context, write
from service.queue import response
from service.queue.response import RESPONSE_BYTES
from service.sources.source import ReceiptSource

UNREAD_BYTES: Final = 8_000_000
"""Limit of unread response bytes: above it nothing is received. Each byte takes two bytes of memory."""
LEAST_BYTES: Final = 1_200_000
"""Every receive may bring at least this much, whatever others are open: any message of SQS fits."""
PATIENCE_S: Final = 1.0
"""Seconds that a received message waits for clients to read earlier responses."""


class Full(Exception):
    """Clients have left too many bytes unread."""


@dataclass(eq=False, slots=True)
class Parcel:
    """A response, and the receipts of the messages that it carries: it holds what was in them."""

    receipts: Sequence[str]
    response: bytes
    until: float
    """The messages are invisible to others at least until this time of the monotonic clock."""


class UnreadResponses:
    def __init__(self, source: ReceiptSource[Any]) -> None:
        self._source = source
        self._unread = 0
        self._asked = 0
        """Bytes that receives in flight may still bring."""
        self._read = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        """Stop waiting for clients to read."""
        self._stopping = True
        self._read.set()

    async def receive(self, limit: int, visibility_s: int, wait_s: float) -> Parcel:
        """Receive messages and encode the response; give back those that do not fit into it.

        Raises `Unreachable`, and `Full` when clients leave too much unread for `wait_s` seconds, at least `PATIENCE_S`.
        """
        await self._room(UNREAD_BYTES, max(wait_s, PATIENCE_S))
        until = time.monotonic() + visibility_s
        messages = await self._receive(limit, visibility_s, wait_s)
        receipts, carried = [self._source.receipt(message) for message in messages], 0
        try:
            if messages:
                # Up to twice the limit in all: giving messages back would cost each of them a delivery.
                await self._room(2 * UNREAD_BYTES - sum(message.size for message in messages), PATIENCE_S)
            data, carried = response.make(messages, receipts)
        finally:
            self._give_back(receipts[carried:], until)
        return Parcel(receipts[:carried], data, until)

    async def send(self, parcel: Parcel, context: Context) -> None:
        """Return when the client's connection has taken it. If the client is gone, give back and be cancelled."""
        size = len(parcel.response)
        self._unread += size
        try:
            await write(context, parcel.response)
        except BaseException:
            self._give_back(parcel.receipts, parcel.until)
            raise
        finally:
            self._unread -= size
            self._read.set()
            self._read.clear()

    async def _receive(self, limit: int, visibility_s: int, wait_s: float) -> Sequence[Any]:
        room = min(RESPONSE_BYTES, max(LEAST_BYTES, (UNREAD_BYTES - self._unread - self._asked) // 2))
        self._asked += room
        try:
            return await self._source.receive(limit, room, visibility_s, wait_s)
        finally:
            self._asked -= room

    async def _room(self, limit: int, wait_s: float) -> None:
        """Return when at most `limit` bytes are unread. Raises `Full` if that takes longer than `wait_s` seconds."""
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

    def _give_back(self, receipts: Sequence[str], until: float) -> None:
        if receipts and time.monotonic() < until:
            self._source.release(receipts)
