"""Wire the parts of presence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from service.contracts import devices as contract
from service.devices.presence.ask import Asker, Unanswered
from service.devices.presence.bucket import CHUNK, Bucket
from service.devices.presence.events import Events
from service.devices.presence.expiry import ended, forgotten
from service.devices.presence.feed import PAUSE_MAX_S, Feed
from service.devices.presence.heard import Heard
from service.devices.presence.keeper import Call, Keeper
from service.devices.presence.life import life_of
from service.devices.presence.record import Record, State
from service.devices.presence.stream import Stored, Stream
from service.nats.connection import Connection
from service.requests.errors import Unavailable
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need
from service.sources.jetstream.message import StreamMessage
from service.writing.letters import Letters
from service.writing.rows import Unreadable

log: Final = structlog.get_logger("service.devices")
_dead: Final = Repeated(log, "a connect or will became a dead letter")
_kept: Final = Repeated(log, "the dead-letter stream does not take a connect or will")

NS: Final = 1_000_000_000
DEAD_RETRY_S: Final = 60.0


@dataclass(frozen=True)
class Stats:
    connects: int
    wills: int
    late: int
    """Wills of connections that the device had replaced."""
    downs: int
    ups: int
    conflicts: int
    """Rounds that another process's change ended; each was made again."""
    dead: int
    dead_refused: int


class Presence:
    """Keeps the record of each device, and publishes its outages and returns. Several processes may do so at once."""

    def __init__(
        self, connection: Connection, letters: Letters[StreamMessage], silence_s: int,
        fail: Callable[[ServiceError], None],
    ) -> None:  # fmt: skip
        """`silence_s` is that of devices that name none. `fail` is called when a consumer is gone."""
        self._letters = letters
        self._silence_s = silence_s
        self._dead = self._dead_refused = 0
        self._asker = Asker(connection.nc)
        self._bucket = Bucket(connection, self._asker)
        self._events = Events(self._asker)
        self._stream = Stream(self._asker)
        self._keeper = Keeper(self._bucket, self._stream, self._events, silence_s)
        self._heard = Heard(connection.nc, self._keeper)
        self._lives = Feed(connection, contract.MQTT_STREAM, contract.LIFE_CONSUMER, self._keeper, fail)
        self._ends = Feed(connection, contract.BUCKET_STREAM, contract.EXPIRY_CONSUMER, self._keeper, fail)
        self._looking: asyncio.Task[None] | None = None

    @property
    def stats(self) -> Stats:
        counts = self._keeper.counts
        return Stats(
            counts.connects, counts.wills, counts.late, self._events.downs, self._events.ups, counts.conflicts,
            self._dead, self._dead_refused,
        )  # fmt: skip

    def needs(self) -> Sequence[Need]:
        """Return what must hold before `start`. The user's permissions are the role's own need."""
        return (*self._lives.needs(), self._bucket.need(), *self._ends.needs())

    async def start(self) -> None:
        await self._asker.start()
        await self._heard.start()
        await self._lives.start(self._called)
        await self._ends.start(self._ended)
        self._looking = background(self._look_back(), "look back")

    def seen(self, device: str, seq: int, sent_ns: int = 0) -> None:
        """Take a reading as a sign of life; returns at once.

        `seq` and `sent_ns` are the message's sequence and time in its stream; without a time it came just now.
        """
        self._heard.seen(device, seq, sent_ns)

    async def get(self, device: str) -> Record | None:
        """Return the device's record, None if it never connected. Raise `Unavailable`."""
        try:
            return await self._bucket.get(device)
        except Unanswered as error:
            raise Unavailable(f"the device's record cannot be read ({error}); ask again") from None

    async def list(self, state: str, after: str, limit: int) -> Sequence[Record]:
        """Return up to `limit` records above the id `after`, in order of ids; of one `state`, or of all if empty.

        Raise `Unavailable`.
        """
        found: list[Record] = []
        try:
            devices = [device for device in await self._bucket.devices() if device > after]
            size = min(limit, CHUNK) if not state else CHUNK
            for start in range(0, len(devices), max(1, size)):
                part = devices[start : start + size]
                records = (await self._bucket.read(part)).records
                known = [records[each] for each in part if each in records]
                found += [record for record in known if not state or record.state == state]
                if len(found) >= limit:
                    break
        except Unanswered as error:
            raise Unavailable(f"the devices' records cannot be read ({error}); ask again") from None
        return found[:limit]

    async def count(self, state: State) -> int:
        """Return how many devices are in this state. Raise `Unavailable`."""
        found = 0
        try:
            devices = await self._bucket.devices()
            for start in range(0, len(devices), CHUNK):
                records = (await self._bucket.read(devices[start : start + CHUNK])).records
                found += sum(record.state == state for record in records.values())
        except Unanswered as error:
            raise Unavailable(f"the devices' records cannot be read ({error}); ask again") from None
        return found

    async def drain(self, timeout_s: float) -> None:
        """Receive no more, and end the rounds that run, within the time. The rest comes again, to any process."""
        if self._looking:
            await cancel(self._looking)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(self._lives.drain(), self._ends.drain(), self._heard.drain())

    async def close(self) -> None:
        if self._looking:
            await cancel(self._looking)
        await self._heard.close()
        await self._lives.close()
        await self._ends.close()

    def oldest_s(self) -> float:
        """Return the age in seconds of the oldest connect, will or end of a timer being worked on; 0 if none is."""
        return max(self._lives.oldest_s(), self._ends.oldest_s())

    def problem(self) -> str:
        """Return why records are not kept up to date; '' if they are."""
        return self._lives.problem() or self._ends.problem()

    async def _called(self, messages: Sequence[StreamMessage]) -> Mapping[str, Call]:
        """Sort connects and wills by device. What is neither becomes a dead letter."""
        calls: dict[str, Call] = {}
        first = min(message.number for message in messages)
        for message in messages:
            try:
                subject = message.subject.decode()
                stored = Stored(subject, message.sequence, message.sent_ns / NS, message.data)
                device, _ = life_of(stored, self._silence_s)
            except (Unreadable, UnicodeDecodeError) as error:
                await self._bury(message, str(error))
            else:
                calls.setdefault(device, Call(number=first)).lives[stored.seq] = stored
        return calls

    async def _ended(self, messages: Sequence[StreamMessage]) -> Mapping[str, Call]:
        """Return the devices whose timer has ended, each with its last reading.

        That one is acknowledged, so it waits in the stream no more, and may wait here for its round.
        """
        calls = await ended(messages)
        for device, call in calls.items():
            call.reading = self._heard.last(device)
        return calls

    async def _bury(self, message: StreamMessage, reason: str) -> None:
        problem = await self._letters.put(message, reason)
        if problem:
            self._dead_refused += 1
            _kept.warning("", reason=reason, problem=problem)
            self._lives.hold_back(message, DEAD_RETRY_S)
        else:
            self._dead += 1
            _dead.warning("", reason=reason)

    async def _look_back(self) -> None:
        """Once at the start, find records of an earlier stream, and the outages whose markers are gone."""
        while True:
            try:
                if await self._bucket.last_seq() > await self._stream.last_seq():
                    remedy = f"purge {contract.BUCKET_STREAM}: each device has a record again at its next sign"
                    log.error("the devices' stream was made again, and records are ahead of it", remedy=remedy)
                if calls := await forgotten(self._bucket):
                    log.warning("timers ended, and their markers are gone", devices=len(calls))
                    await self._keeper.bring(calls)
            except Unanswered as error:
                log.warning("timers cannot be looked at; it is tried again", error=str(error))
                await asyncio.sleep(PAUSE_MAX_S)
            else:
                return
