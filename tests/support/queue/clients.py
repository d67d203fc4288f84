"""Clients that share a queue. They record every delivery, every answered deletion, and every broken promise."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from service.contracts import queue as contract
from service.contracts.stream import STREAM
from service.nats.jetstream import backlog
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from tests.support.world import World, eventually

ALL_S = 120.0
WAIT_S = 1
LIMIT = 20
CALL_S = 30
RETRY_S = 0.05
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

Handle = Callable[["Clients", SQSServiceStub, Sequence[str]], Awaitable[None]]
"""What a client does with the receipts of the messages that it has received."""


@dataclass
class Clients:
    """Clients and their record. `violations` is empty unless a promise was broken."""

    early_s: float = 0.0
    """Seconds by which a visibility may end early."""
    deliveries: Counter[str] = field(default_factory=Counter)
    """Number of deliveries, by message."""
    deleted: dict[str, float] = field(default_factory=dict)
    """When each message's deletion was answered."""
    unanswered: set[str] = field(default_factory=set)
    """Messages whose deletion was requested of a sidecar that ended before it answered."""
    violations_at: list[tuple[float, str]] = field(default_factory=list)
    """Each broken promise, and when it was seen, on the monotonic clock."""
    unavailable: int = 0
    longest_gap_s: float = 0.0
    """Longest time without a delivery."""
    _asked: dict[str, tuple[float, float]] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)
    """The message of each receipt."""
    _last_s: float = field(default_factory=time.monotonic)

    @asynccontextmanager
    async def working(
        self, channels: Sequence[grpc.aio.Channel], *handles: Handle, visibility_s: int = 3
    ) -> AsyncIterator[None]:
        """Run a client for each of `handles`; if its sidecar is gone, it continues with the next of `channels`."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number, handle in enumerate(handles):
                its = [*channels[number % len(channels) :], *channels]
                group.create_task(self._work(its, handle, visibility_s, stop))
            try:
                yield
            finally:
                stop.set()

    @property
    def violations(self) -> list[str]:
        return [text for _, text in self.violations_at]

    def _violated(self, text: str) -> None:
        self.violations_at.append((time.monotonic(), text))

    async def more_deleted(self, count: int) -> None:
        enough = len(self.deleted) + count
        await eventually(lambda: len(self.deleted) >= enough, within_s=ALL_S, what=f"{count} more deletions")

    async def all_deleted(self, world: World, count: int) -> None:
        """Wait until all of this many messages are deleted."""

        async def nothing_is_left() -> bool:
            return len(self.deleted.keys() | self.unanswered) >= count and await left(world) == 0

        await eventually(nothing_is_left, within_s=ALL_S, what=f"{count} messages deleted")

    async def delete(self, stub: SQSServiceStub, receipts: Sequence[str]) -> None:
        """Delete the messages; return when each deletion is answered or refused."""
        left = list(receipts)
        while left:
            request = pb.SQSDeleteMessagesRequest(messageIDs=left)
            try:
                results = (await stub.DeleteMessages(request, timeout=CALL_S)).results
            except grpc.aio.AioRpcError:
                self.unanswered.update(self._ids[receipt] for receipt in left)
                raise
            for receipt, result in zip(left, results, strict=True):
                if result.code == 0:
                    self.deleted.setdefault(self._ids[receipt], time.monotonic())
                elif result.code != UNAVAILABLE.value[0]:
                    self._violated(f"a receipt that was handed out was refused: {result.error}")
            left = [
                receipt for receipt, result in zip(left, results, strict=True) if result.code == UNAVAILABLE.value[0]
            ]
            self.unavailable += len(left)

    async def _work(
        self, channels: list[grpc.aio.Channel], handle: Handle, visibility_s: int, stop: asyncio.Event
    ) -> None:
        while not stop.is_set():
            stub = SQSServiceStub(channels[0])
            asked = time.monotonic()
            request = pb.SQSReceiveMessageRequest(
                visibility_timeout=visibility_s, wait_time=WAIT_S, maximum_number_of_messages=LIMIT
            )
            try:
                messages = (await stub.ReceiveMessage(request, timeout=CALL_S)).messages
                for message in messages:
                    self._received(message, asked, visibility_s)
                await handle(self, stub, [message.messageID for message in messages])
            except grpc.aio.AioRpcError as error:
                if error.code() != UNAVAILABLE:
                    raise
                self.unavailable += 1
                channels.append(channels.pop(0))
                await asyncio.sleep(RETRY_S)

    def _received(self, message: Any, asked: float, visibility_s: float) -> None:
        """Record a delivery. Visibility begins during the call: counted from its start, no correct one seems early."""
        now, id_ = time.monotonic(), str(message.id)
        before_asked, before_visibility_s = self._asked.get(id_, (-1e9, 0.0))
        if now < before_asked + before_visibility_s - self.early_s:
            self._violated(
                f"{id_} was handed out {now - before_asked:.2f} s after a visibility of {before_visibility_s} s began"
            )
        if asked > self.deleted.get(id_, 1e18):
            self._violated(f"{id_} was handed out after its deletion was answered")
        self.deliveries[id_] += 1
        self._asked[id_] = asked, visibility_s
        self._ids[message.messageID] = id_
        self.longest_gap_s = max(self.longest_gap_s, now - self._last_s)
        self._last_s = now


async def delete(clients: Clients, stub: SQSServiceStub, receipts: Sequence[str]) -> None:
    await clients.delete(stub, receipts)


async def delete_twice(clients: Clients, stub: SQSServiceStub, receipts: Sequence[str]) -> None:
    for _ in range(2):
        await clients.delete(stub, receipts)


async def keep(_clients: Clients, _stub: SQSServiceStub, _receipts: Sequence[str]) -> None:
    """Never delete."""


def delete_after(seconds: float) -> Handle:
    async def late(clients: Clients, stub: SQSServiceStub, receipts: Sequence[str]) -> None:
        await asyncio.sleep(seconds)
        await clients.delete(stub, receipts)

    return late


async def left(world: World) -> int:
    """Count the messages that wait in the stream, or that a client holds."""
    async with world.administrator() as admin:
        info = await admin.consumer_info(STREAM, contract.CONSUMER)
        return backlog(info)


def describe(clients: Clients) -> str:
    again = sum(times - 1 for times in clients.deliveries.values())
    return (
        f"{len(clients.deliveries):,} messages, {again:,} deliveries again, "
        f"{len(clients.deleted):,} deletions answered; {clients.unavailable:,} times UNAVAILABLE"
    )
