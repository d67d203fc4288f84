"""A durable pull consumer of a JetStream stream, read as the wire has it.

Several pulls are open at a time, each bounded in messages and bytes, and only as many as there is room for what they
bring. nats-py's `fetch` costs three times as much for a message, has no `max_bytes`, and drops an event that carries
a header `Status`. A status message is told by its empty reply subject.

Pulls: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import nats.errors
import orjson
import structlog
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy
from nats.js.errors import APIError, NotFoundError

from service.archive import contract
from service.archive.continuity import Continuity
from service.archive.event import NS, Event, rfc3339
from service.archive.source import Backlog, Room
from service.runtime import jetstream, permissions
from service.runtime.cancel import cancel
from service.runtime.connection import Connection, confirm
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need

log: Final = structlog.get_logger("service.archive")
_status: Final = Repeated(log, "a pull ended")

PULLS: Final = 5
PULL_MESSAGES: Final = 500
PULL_BYTES: Final = 2 * 1024 * 1024
ENVELOPE_BYTES: Final = 64 * 1024
"""Of subject, reply and headers of one message, beside the server's largest payload."""
EXPIRES_S: Final = 5.0
GRACE_S: Final = 2.0
TICK_S: Final = 0.5
PAUSE_S: Final = 1.0
EXTEND_DIVISOR: Final = 3
_NORMAL: Final = (b"404", b"408", b"409 Batch Completed")
_WORKING: Final = b"+WPI"


@dataclass(slots=True)
class _Pull:
    """A place for one pull: what it may still bring, and until when."""

    subscription: Subscription
    inbox: str
    messages: int = 0
    bytes: int = 0
    until_s: float = 0.0
    not_before_s: float = 0.0

    def end(self) -> None:
        self.messages = self.bytes = 0


class JetStream:
    """Events of `stream`, of which `consumer` tells the tasks apart."""

    def __init__(self, connection: Connection, stream: str, consumer: str) -> None:
        self.name = stream
        self._connection = connection
        self._nc = connection.nc
        self._consumer = consumer
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._ack_wait_s = float(contract.ACK_WAIT_S)
        self._pulls: list[_Pull] = []
        self._room: Room
        self._ticking: asyncio.Task[None] | None = None
        self._reconnects = 0
        self._loop = asyncio.get_running_loop()
        self._continuity = Continuity()
        self._stopping = False

    @property
    def extend_every_s(self) -> float:
        return self._ack_wait_s / EXTEND_DIVISOR

    @property
    def discarded(self) -> int:
        return self._continuity.discarded

    def needs(self) -> Sequence[Need]:
        return (
            Need("permissions", self._look_at_permissions, at_start=False),
            Need(f"stream {self.name}", self._look_at_stream),
            Need(f"consumer {self._consumer} of {self.name}", self._look_at_consumer),
        )

    async def start(self, room: Room) -> None:
        self._room = room
        await self.backlog()  # where the consumer is, before this task moves it
        self._reconnects = self._nc.stats["reconnects"]
        for _ in range(PULLS):
            inbox = self._nc.new_inbox()
            pull = _Pull(await self._nc.subscribe(inbox), inbox)
            self._nc.deliver_raw(pull.subscription, partial(self._on_message, pull))
            self._pulls.append(pull)
        self._ticking = asyncio.create_task(self._tick(), name="pulls")

    def more(self) -> None:
        """Open as many pulls as there is room for."""
        if self._stopping or not self._nc.is_connected:
            return
        now = self._loop.time()
        events, size = self._room.room()
        events -= sum(pull.messages for pull in self._pulls)
        size -= sum(pull.bytes for pull in self._pulls)
        largest = max(PULL_BYTES, self._nc.max_payload + ENVELOPE_BYTES)
        alone = not any(pull.messages for pull in self._pulls) and self._room.is_empty()
        for pull in self._pulls:
            if pull.messages or pull.not_before_s > now:
                continue
            if not alone and (events < PULL_MESSAGES or size < largest):
                return
            alone = False
            events, size = events - PULL_MESSAGES, size - largest
            asked = {"batch": PULL_MESSAGES, "max_bytes": largest, "expires": int(EXPIRES_S * NS)}
            try:
                self._nc.post(self._subject, orjson.dumps(asked), reply=pull.inbox)
            except nats.errors.Error as error:
                _status.warning("not sent", error=str(error))
                return
            pull.messages, pull.bytes = PULL_MESSAGES, largest
            pull.until_s = now + EXPIRES_S + GRACE_S

    async def take_no_more(self) -> None:
        self._stopping = True
        if self._ticking:
            await cancel(self._ticking)
        for pull in self._pulls:
            try:
                await pull.subscription.unsubscribe()
            except nats.errors.Error as error:
                log.warning("subscription not ended", error=str(error))
        await confirm(self._nc)  # what came before the server's answer is all there is

    async def backlog(self) -> Backlog | None:
        context = self._connection.jetstream
        try:
            state = (await context.stream_info(self.name)).state
            info = await context.consumer_info(self.name, self._consumer)
        except NotFoundError:
            raise self._gone() from None
        except (nats.errors.Error, APIError) as error:
            _status.warning("backlog", error=str(error) or type(error).__name__)
            return None
        if info.delivered is None or info.ack_floor is None:
            return None
        self._continuity.polled(info.delivered.consumer_seq, info.delivered.stream_seq, state.first_seq)
        return Backlog(
            (info.num_pending or 0) + (info.num_ack_pending or 0),
            unconfirmed=max(0, state.first_seq - 1 - info.ack_floor.stream_seq),
        )

    def acknowledge(self, events: Sequence[Event]) -> None:
        self._answer(events, b"")

    def extend(self, events: Sequence[Event]) -> None:
        self._answer(events, _WORKING)

    def give_back(self, events: Sequence[Event], delay_s: float = 0.0) -> None:
        self._answer(events, b'-NAK {"delay":%d}' % (delay_s * NS) if delay_s else b"-NAK")

    async def settle(self) -> None:
        await confirm(self._nc)

    async def close(self) -> None:
        if self._ticking:
            await cancel(self._ticking)

    def _answer(self, events: Sequence[Event], payload: bytes) -> None:
        """An answer that is lost is a message delivered once more, and written over itself."""
        try:
            for event in events:
                self._nc.post(event.handle, payload)
        except nats.errors.Error as error:
            _status.warning("answers not sent", error=str(error) or type(error).__name__)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._nc.stats["reconnects"] != self._reconnects:  # the server has forgotten them
                self._reconnects = self._nc.stats["reconnects"]
                for pull in self._pulls:
                    pull.end()
            now = self._loop.time()
            for pull in self._pulls:
                if pull.messages and pull.until_s < now:
                    pull.end()
            self.more()

    def _on_message(self, pull: _Pull, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if not reply:
            self._on_status(pull, headers)
            return
        event = make_event(subject, reply, data, headers)
        delivered, sequence, number = _position(reply)
        self._continuity.delivered(number, sequence, again=delivered > 1)
        pull.messages = max(0, pull.messages - 1)
        pull.bytes = max(0, pull.bytes - event.size) if pull.messages else 0
        self._room.take(event)

    def _on_status(self, pull: _Pull, headers: bytes) -> None:
        status = headers.partition(b"\r\n")[0].removeprefix(b"NATS/1.0").strip()
        if status.startswith(b"100"):
            return
        pull.end()
        if not status.startswith(_NORMAL):
            _status.warning(status.decode(errors="replace"))
            pull.not_before_s = self._loop.time() + PAUSE_S
        self.more()

    def _gone(self) -> ServiceError:
        return ServiceError(f"consumer {self._consumer} of stream {self.name} does not exist", jetstream.PROVISION)

    async def _look_at_permissions(self) -> None:
        self._connection.jetstream  # noqa: B018  raises Skipped without a connection
        await permissions.look(self._nc, contract.USER, contract.PUBLISH, contract.SUBSCRIBE)

    async def _look_at_stream(self) -> None:
        await jetstream.check_stream(self._connection.jetstream, self.name, ())

    async def _look_at_consumer(self) -> str:
        context = self._connection.jetstream
        try:
            info = await context.consumer_info(self.name, self._consumer)
        except NotFoundError:
            raise self._gone() from None
        except (nats.errors.Error, APIError) as error:
            raise jetstream.explain(f"consumer {self._consumer} of {self.name}", error) from None
        if info.config.deliver_subject or info.config.ack_policy != AckPolicy.EXPLICIT:
            raise ServiceError(
                f"consumer {self._consumer} of {self.name} is no pull consumer with explicit acknowledgements",
                "correct it with `python -m control_plane create`",
            )
        self._ack_wait_s = float(info.config.ack_wait or contract.ACK_WAIT_S)
        return f"backlog {(info.num_pending or 0) + (info.num_ack_pending or 0)}"


def make_event(subject: bytes, reply: bytes, data: bytes, headers: bytes) -> Event:
    """The event of a stream's message."""
    _, sequence, _ = _position(reply)
    time_ns = int(reply.split(b".")[_first_token(reply) + 3])
    time = rfc3339(time_ns)
    unreadable = ""
    try:
        client_id = subject.rpartition(b".")[2].decode()
    except UnicodeDecodeError:
        client_id, unreadable = subject.rpartition(b".")[2].decode(errors="backslashreplace"), "subject is not UTF-8"
    return Event(
        client_id=client_id,
        key=f"{time}#{sequence}",
        time=time,
        time_s=time_ns // NS,
        sequence=sequence,
        body=data,
        msg_id=_msg_id(headers) if headers else "",
        handle=reply.decode(),
        size=len(subject) + len(reply) + len(headers) + len(data),
        unreadable=unreadable,
    )


def _first_token(reply: bytes) -> int:
    """Where `<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>` begins: ADR-15 has both forms."""
    return 4 if reply.count(b".") == 8 else 6


def _position(reply: bytes) -> tuple[int, int, int]:
    """How often it was delivered, its sequence in the stream, and in the consumer."""
    first = _first_token(reply)
    delivered, sequence, number = reply.split(b".")[first : first + 3]
    return int(delivered), int(sequence), int(number)


def _msg_id(headers: bytes) -> str:
    for line in headers.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"nats-msg-id":
            return value.strip().decode(errors="replace")
    return ""
