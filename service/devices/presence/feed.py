"""Read a consumer whose messages call for rounds, and acknowledge each after its round."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from service.contracts import devices as contract
from service.devices.presence.ask import Unanswered
from service.devices.presence.bucket import ROUND
from service.devices.presence.keeper import Call, Keeper
from service.nats.connection import Connection
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need
from service.sources.jetstream.consumer import Reader
from service.sources.jetstream.message import StreamMessage
from service.sources.jetstream.source import JetStream
from service.sources.source import Unreachable

log: Final = structlog.get_logger("service.devices")
_waiting: Final = Repeated(log, "presence is not up to date; it is tried again")
_failed: Final = Repeated(log, "presence failed at something unknown; it is tried again")

NS: Final = 1_000_000_000
WAIT_S: Final = 5.0
PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0
EXTEND_DIVISOR: Final = 3

Sort = Callable[[Sequence[StreamMessage]], Awaitable[Mapping[str, Call]]]
"""Return what the messages call for, by device. It may hold messages back."""


class Feed:
    """Messages of one consumer, a round after another. `fail` ends the process when the consumer is gone."""

    def __init__(
        self, connection: Connection, stream: str, consumer: str, keeper: Keeper, fail: Callable[[ServiceError], None]
    ) -> None:
        self.source = JetStream(connection, Reader(contract.USER, stream, consumer, (), ()))
        self._name = consumer
        self._keeper = keeper
        self._fail = fail
        self._stopping = False
        self._problem = ""
        self._oldest_ns = 0
        """When the first message of the current round was stored; 0 between rounds."""
        self._held_back: set[str] = set()
        """Handles of messages that must come again."""
        self._reading: asyncio.Task[None] | None = None

    def needs(self) -> Sequence[Need]:
        return [need for need in self.source.needs() if need.name != "permissions"]

    async def start(self, sort: Sort) -> None:
        await self.source.start()
        self._reading = background(self._read(sort), self._name)

    def problem(self) -> str:
        return self._problem or self.source.problem()

    def oldest_s(self) -> float:
        """Return the age in seconds of the oldest message of the current round; 0 between rounds."""
        return max(0.0, (time.time_ns() - self._oldest_ns) / NS) if self._oldest_ns else 0.0

    def hold_back(self, message: StreamMessage, delay_s: float) -> None:
        """Let a message of the current round come again later, in place of acknowledging it."""
        self._held_back.add(message.handle)
        self.source.give_back([message], delay_s)

    async def drain(self) -> None:
        """Receive no more; return when what was received is done and acknowledged."""
        self._stopping = True
        await self.source.take_no_more()
        if self._reading:
            await asyncio.wait([self._reading])
        await self.source.settle()

    async def close(self) -> None:
        if self._reading:
            await cancel(self._reading)
        await self.source.close()

    async def _read(self, sort: Sort) -> None:
        _, size = self.source.portion
        while not self._stopping:
            try:
                messages = await self.source.receive(ROUND, size, self.source.visibility_s, WAIT_S)
                if messages:
                    self._oldest_ns = min(message.sent_ns for message in messages)
                    await self._work(messages, sort)
            except Unreachable as error:
                await self._look(error)
            except Exception as error:  # its messages are delivered again
                _failed.error(type(error).__name__, exc_info=error)
                await asyncio.sleep(PAUSE_MAX_S)
            finally:
                self._oldest_ns = 0

    async def _work(self, messages: Sequence[StreamMessage], sort: Sort) -> None:
        """Make the round, however long NATS does not answer: in this process, later signs wait for earlier ones."""
        self._held_back.clear()
        calls = await sort(messages)
        pause_s, held_s = PAUSE_S, time.monotonic()
        while True:
            try:
                await self._keeper.bring(calls)
            except Unanswered as error:
                self._problem = str(error)
                _waiting.warning(self._name, error=str(error))
                if self._stopping:
                    self.source.give_back(messages)
                    return
            else:
                self._problem = ""
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
            if time.monotonic() - held_s > self.source.visibility_s / EXTEND_DIVISOR:
                self.source.extend(messages)
                held_s = time.monotonic()
        self.source.acknowledge([message for message in messages if message.handle not in self._held_back])
        await self.source.settle()  # the next round asks how far all processes are

    async def _look(self, why: Unreachable) -> None:
        _waiting.warning(self._name, error=str(why))
        try:
            await self.source.backlog()
        except Unreachable:
            pass
        except ServiceError as error:
            self._fail(error)
        await asyncio.sleep(PAUSE_S)
