"""Pulls of a durable consumer, each with a subscription of its own, read as the wire has them.

A pulled message carries its original subject, so nothing but its subscription tells which pull it belongs to. A status
message is told by its empty reply subject. What arrives after its pull has ended is given back to the server.

Pulls: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import nats.errors
import orjson
from nats.aio.subscription import Subscription

from service.runtime.connection import roundtrip
from service.runtime.nats_client import NatsClient

NS: Final = 1_000_000_000
PULL_BYTES: Final = 3_500_000
"""A client fails at gRPC's 4 MiB, and the messages would stay invisible."""
SHORT_S: Final = 0.5
"""For so long a pull that does not wait may stay open: at the consumer's max_ack_pending `no_wait` alone hangs."""
NAK: Final = b"-NAK"

Delivery = tuple[bytes, bytes, bytes, bytes]
"""Subject, acknowledgement subject, payload and header block."""


@dataclass
class Pull:
    """What one pull brought, and how it ended."""

    inbox: bytes
    limit: int
    deliveries: list[Delivery] = field(default_factory=list)
    status: bytes = b""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        return bool(self.status) or len(self.deliveries) >= self.limit


class _Slot:
    """A subscription, for one pull at a time."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        self._base = nc.new_inbox()
        self._number = 0
        self.subscription: Subscription | None = None
        self.pull: Pull | None = None

    async def open(self) -> None:
        self.subscription = await self._nc.subscribe(f"{self._base}.*")
        self._nc.deliver_raw(self.subscription, self._on_message)

    def begin(self, limit: int) -> Pull:
        self._number += 1
        self.pull = Pull(f"{self._base}.{self._number}".encode(), limit)
        return self.pull

    async def abandon(self) -> None:
        """The server drops a pull nobody listens to; what was on its way is given back as it comes."""
        self.pull = None
        if self.subscription is None:
            return
        try:
            await self.subscription.unsubscribe()
            await roundtrip(self._nc)
        except nats.errors.Error:
            pass  # a lost connection ends both the subscription and the pull
        finally:
            self._nc.end_raw(self.subscription)

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        pull = self.pull
        if not reply:
            status = (headers or b"").partition(b"\r\n")[0].removeprefix(b"NATS/1.0").strip()
            if pull is not None and subject == pull.inbox and not status.startswith(b"100"):
                pull.status = status
                pull.changed.set()
            return
        if pull is None:
            self._nc.post(reply.decode(), NAK)
            return
        pull.deliveries.append((subject, reply, data, headers or b""))
        pull.changed.set()


class Pulls:
    """A pool of subscriptions for the pulls of one consumer."""

    def __init__(self, nc: NatsClient, stream: str, consumer: str) -> None:
        self._nc = nc
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._free: list[_Slot] = []
        self._abandoning: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def pull(self, limit: int, expires_s: float) -> AsyncIterator[Pull]:
        """Ask for up to `limit` messages: those that are there, or the first one within `expires_s`.

        Raises `nats.errors.Error` when it cannot be sent. A pull that is left before it has ended is abandoned.
        """
        slot = self._free.pop() if self._free else await self._open()
        pull = slot.begin(limit)
        expires_ns = int(max(expires_s, SHORT_S) * NS)
        asked = {"batch": limit, "max_bytes": PULL_BYTES, "expires": expires_ns, "no_wait": True}
        try:
            self._nc.post(self._subject, orjson.dumps(asked), reply=pull.inbox.decode())
            yield pull
        except BaseException:
            for _, reply, _, _ in pull.deliveries:
                self._nc.post(reply.decode(), NAK)
            raise
        finally:
            if pull.ended:
                slot.pull = None
                self._free.append(slot)
            else:
                task = asyncio.create_task(slot.abandon(), name="abandon")
                self._abandoning.add(task)
                task.add_done_callback(self._abandoning.discard)

    async def _open(self) -> _Slot:
        slot = _Slot(self._nc)
        await slot.open()
        return slot

    async def settle(self) -> None:
        """Return when what was on its way to abandoned pulls has been given back."""
        if self._abandoning:
            await asyncio.wait(self._abandoning)
