"""Bring devices up to date: a round reads their records and signs, writes what changed, and publishes the events.

A connect, a will, a reading or the end of a timer starts a round, but the round does not rely on it: it reads each
device's connects and wills from the server's stream in order, from the record's sequence on. So it does not matter in
which order processes receive them, which ones a dead process held, or whether some arrive twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from service.contracts import devices as contract
from service.devices.presence.bucket import ROUND, Bucket, Conflict
from service.devices.presence.events import Events
from service.devices.presence.life import life_of
from service.devices.presence.record import (
    ONLINE,
    Event,
    Reading,
    Record,
    Sign,
    Will,
    expire,
    take,
    timer_s,
    was_down,
)
from service.devices.presence.stream import Stored, Stream
from service.writing.rows import Unreadable

AGAIN_S: Final = 0.05
"""Maximum seconds to pause after another process changed a record first."""
MAX_TOLD: Final = 50_000
LIVES: Final = 200
"""Maximum connects and wills of a device per round: a device may publish any number."""


@dataclass(slots=True)
class Call:
    """Why a device is looked at."""

    lives: dict[int, Stored] = field(default_factory=dict)
    """Connects and wills that were received, by sequence."""
    number: int = 0
    """Number of the first delivery among them: another process may hold earlier ones."""
    reading: Reading | None = None
    ended: int = 0
    """Sequence, in the bucket, of the marker of its timer's end; 0: none was received."""


@dataclass(slots=True)
class Counts:
    connects: int = 0
    wills: int = 0
    late: int = 0
    conflicts: int = 0


class Keeper:
    """One round at a time: rounds of one process never conflict."""

    def __init__(self, bucket: Bucket, stream: Stream, events: Events, silence_s: int) -> None:
        self.counts = Counts()
        self._bucket = bucket
        self._stream = stream
        self._events = events
        self._silence_s = silence_s
        self._round = asyncio.Lock()
        self._told: dict[str, int] = {}
        """Device -> revision of its record whose events this process published."""

    async def bring(self, calls: Mapping[str, Call]) -> dict[str, Record]:
        """Return the devices' records, up to date and with their events published. Raise `Unanswered`: call again."""
        found: dict[str, Record] = {}
        devices = list(calls)
        for start in range(0, len(devices), ROUND):
            part = {device: calls[device] for device in devices[start : start + ROUND]}
            passed: dict[str, int] = {}
            while True:
                async with self._round:  # not held between rounds: other devices do not wait for one with many signs
                    brought = await self._try(part, passed)
                if brought is not None:
                    break
                await asyncio.sleep(random.uniform(0, AGAIN_S))
            found |= brought
        return found

    async def _try(self, calls: Mapping[str, Call], passed: dict[str, int]) -> dict[str, Record] | None:
        """Make one round; None if it must be made again.

        `passed` has the sequence up to which earlier rounds applied a device's connects and wills. The record does not
        show it: late or invalid ones do not move its `seq`.
        """
        # Asked before the signs are read, so that every sign up to it is among them.
        last = await self._stream.last_seq() if any(call.ended for call in calls.values()) else 0
        records, deleted = await self._bucket.read(list(calls))
        await self._tell_what_is_left(records)
        known = await self._without_others(calls)
        lives, more = await self._lives(calls, records, known, passed)
        readings = await self._readings(calls, records, lives)
        changes: list[tuple[Record | None, Record]] = []
        for device, call in calls.items():
            before, is_whole = records.get(device), device not in more
            base = replace(before, events=()) if before else None
            heard = [reading for reading in readings.get(device, ()) if is_whole or reading.seq < more[device]]
            after = take(base, device, [*lives.get(device, ()), *heard], self._silence_s)
            if before and base and after is base and is_whole and _has_ended(before, call):
                after = expire(base, last)
            if after is not None and after is not base:
                changes.append((before, after))
        if changes:
            try:
                revisions = await self._bucket.write(changes, deleted)
            except Conflict:
                self.counts.conflicts += 1
                return None
            written = [replace(after, revision=revisions[after.device], written=0.0) for _, after in changes]
            records |= {record.device: record for record in written}
            await self._tell(written)
        if more:
            passed |= more
            return None
        self._count(calls, records)
        return records

    async def _without_others(self, calls: Mapping[str, Call]) -> frozenset[str]:
        """Return the devices whose call has all their connects and wills: no other process holds one, and none waits.

        If some were received, later ones may still wait: they are applied when they are received.
        """
        floor, waiting = await self._stream.progress(contract.LIFE_CONSUMER)
        return frozenset(
            device for device, call in calls.items() if (floor >= call.number - 1 if call.lives else waiting == 0)
        )

    async def _lives(
        self, calls: Mapping[str, Call], records: Mapping[str, Record], known: frozenset[str], passed: Mapping[str, int]
    ) -> tuple[dict[str, list[Sign]], Mapping[str, int]]:
        """Return the connects and wills not yet applied; for devices with more, also how far they were read."""
        after = {
            device: max(record.seq if (record := records.get(device)) else 0, passed.get(device, 0))
            for device, call in calls.items() if _may_change(records.get(device), call)
        }  # fmt: skip
        stored = {device: dict(calls[device].lives) for device in after}
        after = {device: seq for device, seq in after.items() if device not in known}
        for _ in range(LIVES):
            if not after:
                break
            found = await self._stream.next_lives(after)
            after = {}
            for device, life in found.items():
                if life.seq < max(calls[device].lives, default=life.seq + 1):  # those after the received come later
                    after[device] = life.seq
                stored[device][life.seq] = life
        signs: dict[str, list[Sign]] = {}
        for device, lives in stored.items():
            signs[device] = []
            for seq, life in lives.items():
                if seq <= after.get(device, seq):
                    with contextlib.suppress(Unreadable):  # its receiver makes it a dead letter
                        signs[device].append(life_of(life, self._silence_s)[1])
        return signs, after

    async def _readings(
        self, calls: Mapping[str, Call], records: Mapping[str, Record], lives: Mapping[str, Sequence[Sign]]
    ) -> dict[str, list[Reading]]:
        """Return each device's readings to apply.

        If its timer is over, an earlier reading may still wait in the stream: a device is not silent because processes
        were down or are slow. So that reading is applied too, before a connect or will from after the timer's end.
        """
        readings = {device: [call.reading] for device, call in calls.items() if call.reading}
        over = {}
        for device, call in calls.items():
            record = records.get(device)
            signs = (*lives.get(device, ()), *readings.get(device, ()))
            if record and (_has_ended(record, call) or any(was_down(record, sign) for sign in signs)):
                over[device] = record
        if over and (await self._stream.progress(contract.DATA_CONSUMER)).waiting:
            first = await self._stream.next_readings({device: record.seq for device, record in over.items()})
            last = await self._stream.last_readings(list(first))
            for device, stored in first.items():
                readings[device] = _in_time(
                    over[device], calls[device], lives.get(device, ()), stored, last.get(device, stored)
                )
        return readings

    async def _tell_what_is_left(self, records: Mapping[str, Record]) -> None:
        """Publish the events that a process wrote but may not have published before it ended."""
        doubtful = [record for record in records.values() if record.events and not self._has_told(record)]
        if doubtful:
            missing = await self._events.missing(_named(doubtful))
            if missing:
                await self._events.publish(missing)
            self._remember(doubtful)

    async def _tell(self, written: Sequence[Record]) -> None:
        if named := _named(written):
            await self._events.publish(named)
            self._remember([record for record in written if record.events])

    def _has_told(self, record: Record) -> bool:
        return self._told.get(record.device) == record.revision

    def _remember(self, records: Sequence[Record]) -> None:
        if len(self._told) > MAX_TOLD:
            self._told.clear()
        self._told |= {record.device: record.revision for record in records}

    def _count(self, calls: Mapping[str, Call], records: Mapping[str, Record]) -> None:
        for device, call in calls.items():
            for life in call.lives.values():
                try:
                    _, sign = life_of(life, self._silence_s)
                except Unreadable:
                    continue
                if not isinstance(sign, Will):
                    self.counts.connects += 1
                    continue
                self.counts.wills += 1
                record = records.get(device)
                self.counts.late += bool(record and sign.session < record.session)


def _has_ended(record: Record, call: Call) -> bool:
    """Return whether the marker belongs to the timer that was written with this record."""
    return bool(call.ended > record.revision and timer_s(record))


def _may_change(record: Record | None, call: Call) -> bool:
    """Return whether to look at the stream: a reading of a device that is online, and has no timer, changes nothing."""
    return bool(record is None or call.lives or record.state != ONLINE or record.silence)


def _in_time(record: Record, call: Call, lives: Sequence[Sign], first: Stored, last: Stored) -> list[Reading]:
    """Return the readings to apply if the timer is over, and a first and a last one wait in the stream.

    A device whose first one was in time counts as online until its next connect or will.
    """
    end = record.written + timer_s(record)
    in_time = first.at <= end
    readings: list[Reading] = []
    if any(life.seq > first.seq for life in lives):
        readings.append(Reading(first.seq, end if in_time and record.state == ONLINE else first.at))
    if call.ended or call.reading:  # else connects and wills below the last reading may not be received yet
        newest = Reading(last.seq, last.at)
        if call.reading and (call.reading.seq > newest.seq or not call.ended):
            newest = call.reading
        readings.append(Reading(newest.seq, min(newest.at, end)) if in_time else Reading(first.seq, first.at))
    return readings


def _named(records: Sequence[Record]) -> list[tuple[str, Event]]:
    return [(record.device, event) for record in records for event in record.events]
