"""The durable pull consumer behind a queue: its configuration, and whether it is still the same consumer."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import nats.errors
import structlog
from nats.js.api import ConsumerInfo
from nats.js.errors import APIError, NotFoundError

from service.nats import jetstream, permissions
from service.nats.connection import Connection
from service.nats.fit import NS, consumer_unfit
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need
from service.sources.jetstream.continuity import Continuity
from service.sources.jetstream.message import StreamMessage
from service.sources.jetstream.pulls import Pull
from service.sources.jetstream.receipt import Receipt, Receipts
from service.sources.jetstream.timing import Timing
from service.sources.source import Backlog, UnknownReceipt, Unreachable

_held_back: Final = Repeated(structlog.get_logger("service.sources"), "the consumer hands out nothing more")


@dataclass(frozen=True)
class Reader:
    """A NATS user that reads a consumer, and the permissions it needs."""

    user: str
    stream: str
    consumer: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False
    """True if the user also answers requests."""
    whole: bool = False
    """True if the user must receive every message of the stream."""


@dataclass(frozen=True)
class Bounds:
    """The consumer's limits for one pull: the server refuses a pull that asks for more."""

    messages: float = math.inf
    bytes: float = math.inf
    expires_s: float = math.inf

    def within(self, messages: int, size: int, expires_s: float) -> tuple[int, int, float]:
        return int(min(messages, self.messages)), int(min(size, self.bytes)), min(expires_s, self.expires_s)


class Consumer:
    """Check its `needs` before any other call: `look` fills in its fields."""

    def __init__(self, connection: Connection, reader: Reader, continuity: Continuity, timing: Timing) -> None:
        self._connection = connection
        self._reader = reader
        self._stream = reader.stream
        self._name = reader.consumer
        self.continuity = continuity
        self._look_s = timing.look_s
        self._is_known = False
        self._looked_s = 0.0
        self._looking: asyncio.Task[str] | None = None
        self.ack_wait_s = 0.0
        self.remark = ""
        """Why the consumer hands out nothing by design: it is full or paused; else ''."""
        self.bounds = Bounds()
        self.id = 0
        """Time of creation, in microseconds since 1970: a recreated consumer has another."""
        self.receipts = Receipts(reader.consumer, 0)
        self.sequence = 0
        """The highest delivery number of this consumer that this process has seen."""

    def needs(self) -> Sequence[Need]:
        return (
            Need("permissions", self._look_at_permissions),
            Need(f"stream {self._stream}", self._look_at_stream),
            Need(f"consumer {self._name} of {self._stream}", self.look),
        )

    async def look(self) -> str:
        """Read the consumer; return its line for `--check`. Raises `ServiceError` if it is missing or unsuitable."""
        what = f"consumer {self._name} of {self._stream}"
        try:
            info = await self._info()
        except NotFoundError:
            raise self._gone() from None
        except (nats.errors.Error, APIError) as error:
            raise jetstream.explain(what, error, self._reader.user) from None
        self._see(*info)
        backlog = f"backlog {jetstream.backlog(info[0])}"
        return f"{backlog}, {self.remark}" if self.remark else backlog

    def _see(self, info: ConsumerInfo, config: Mapping[str, Any]) -> None:
        """Take over its state. Raises `ServiceError` when its configuration does not suit a queue."""
        if unfit := consumer_unfit(config, whole=self._reader.whole):
            raise ServiceError(f"consumer {self._name} of {self._stream} {unfit}", jetstream.CORRECT)
        self.remark = _remark(info)
        if self.remark:
            kind = self.remark.partition(" ")[0]
            _held_back.warning(kind, consumer=self._name, stream=self._stream, reason=self.remark)
        self.bounds = Bounds(
            config.get("max_batch") or math.inf,
            config.get("max_bytes") or math.inf,
            (config.get("max_expires") or math.inf) / NS,
        )
        self.ack_wait_s = float(info.config.ack_wait or 30.0)
        if self.id != _made(info):  # the first look, or the consumer was recreated
            self.continuity.restart()
        self.id = _made(info)
        self.receipts = Receipts(self._name, self.id)
        self._is_known = True
        self._looked_s = time.monotonic()

    async def look_again(self) -> None:
        """Read it again, at most once in `look_s`: it may have been recreated or edited. Raises `ServiceError`."""
        if self._is_known and time.monotonic() - self._looked_s < self._look_s:
            return
        # All callers share one request. Shielded: one cancelled caller must not cancel it for the others.
        if self._looking is None:
            self._looking = asyncio.create_task(self.look(), name="look")
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    def _looked(self, looking: asyncio.Task[str]) -> None:
        self._looking = None
        if not looking.cancelled():
            looking.exception()  # marks it as read: every caller of `look_again` gets it from the task

    async def remark_now(self) -> str:
        """Return the remark: current, or the last one if the server does not answer within `look_s`."""
        with contextlib.suppress(ServiceError, TimeoutError):
            async with asyncio.timeout(self._look_s):
                await self.look_again()
        return self.remark

    async def heed(self, pull: Pull) -> None:
        """Read the consumer again if it may be why a pull ended so. Raises `ServiceError`."""
        if pull.is_refused:
            self.is_gone()
        elif pull.found_nothing:  # the consumer may be full or paused
            await self.look_again()

    def is_gone(self) -> None:
        """Mark the consumer as unknown: the next message may come from another one of the same name."""
        self._is_known = False

    async def recognise(self, numbers: Sequence[int], newest: int) -> int:
        """Return the id of the consumer that made these deliveries: a recreated one numbers them from 1 again.

        `newest` is the value of `sequence` when they were asked for. Raises `ServiceError`.
        """
        made, recreated = self.id, min(numbers) <= newest
        if recreated:
            self.is_gone()
        await self.look_again()
        if self.id != made or recreated:
            self.sequence = 0
        self.sequence = max(self.sequence, *numbers)
        return self.id if recreated else made

    def own(self, messages: Sequence[StreamMessage]) -> list[str]:
        """Return the handles of those that this consumer delivered: an earlier one's may name other messages by now."""
        return [message.handle for message in messages if self._is_known and message.consumer == self.id]

    def own_receipts(self, texts: Sequence[str]) -> Iterator[Receipt]:
        """Yield the receipts of messages that this consumer delivered."""
        for text in texts if self._is_known else ():
            with contextlib.suppress(UnknownReceipt):
                yield self.receipts.parse(text)

    async def backlog(self) -> Backlog:
        """Return the backlog. Raises `Unreachable` when it cannot be read now, `ServiceError` when gone or unfit."""
        try:
            state = (await self._connection.jetstream.stream_info(self._stream)).state
            info, config = await self._info()
        except NotFoundError:
            raise self._gone() from None
        except (nats.errors.Error, APIError) as error:
            said = str(error) or type(error).__name__
            raise Unreachable(f"the consumer cannot be read ({said}); call again") from None
        if info.delivered is None or info.ack_floor is None:
            raise Unreachable("the server does not say how far the consumer is; call again")
        self._see(info, config)
        self.continuity.polled(info.delivered.consumer_seq, info.delivered.stream_seq, state.first_seq)
        return Backlog(jetstream.backlog(info), unconfirmed=max(0, state.first_seq - 1 - info.ack_floor.stream_seq))

    async def last_delivered(self) -> int:
        """Return the highest stream sequence delivered to any client; -1 when it cannot be read."""
        try:
            info, _ = await self._info()
        except (nats.errors.Error, APIError):
            return -1
        return info.delivered.stream_seq if info.delivered else -1

    async def _info(self) -> tuple[ConsumerInfo, Mapping[str, Any]]:
        return await jetstream.consumer(self._connection.jetstream, self._stream, self._name)

    def _gone(self) -> ServiceError:
        return ServiceError(f"consumer {self._name} of stream {self._stream} does not exist", jetstream.PROVISION)

    async def _look_at_permissions(self) -> None:
        self._connection.jetstream  # noqa: B018  raises Skipped without a connection
        nc, reader = self._connection.nc, self._reader
        try:
            await permissions.look(nc, reader.user, reader.publish, reader.subscribe, answers=reader.answers)
        except ServiceError as error:
            remedy = f"{error.remedy}, or correct the name of stream {self._stream} or of consumer {self._name}"
            raise ServiceError(error.problem, remedy) from None

    async def _look_at_stream(self) -> None:
        await jetstream.check_stream(self._connection.jetstream, self._stream, (), self._reader.user)


def _remark(info: ConsumerInfo) -> str:
    """Return why the consumer holds messages back by design; '' if it does not."""
    if info.paused:
        return f"paused until {info.config.pause_until}: no message is handed out before"
    limit = info.config.max_ack_pending or 0
    if 0 < limit <= (info.num_ack_pending or 0):
        return f"full: {info.num_ack_pending} messages are held and not deleted yet (max_ack_pending {limit})"
    return ""


def _made(info: ConsumerInfo) -> int:
    return int(info.created.timestamp() * 1_000_000)
