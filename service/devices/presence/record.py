"""A device's record, and how a sign changes it. Pure: no clock, no I/O.

| state | connect | will | reading | timer over |
| --- | --- | --- | --- | --- |
| no record | online | leaving | online | |
| online | online, with its session and silence | leaving | renews its timer, three times a period | offline, down |
| leaving | online | leaving, with the later will's delay | online | offline, down |
| offline | online, up | offline | online, up | |

Signs are applied in the order of the server's stream, each once: one with a `seq` that is not above the record's is
old. A will of a session below that of the last connect is old too: its device has connected again. A will does not
change the session: one that is too high would hide all later ones. A connect of a session whose will has arrived is
late. A sign from after the end of the timer finds the device offline, whether or not the timer's marker was handled:
so an outage that ended while no process ran has its two events.

All times are the server's, in seconds since 1970: neither processes nor devices need a correct clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

State = Literal["online", "leaving", "offline"]
ONLINE: Final = "online"
LEAVING: Final = "leaving"
OFFLINE: Final = "offline"
DOWN: Final = "down"
UP: Final = "up"
WILL: Final = "will"
SILENCE: Final = "silence"

LONGEST_S: Final = 30 * 86_400
"""Maximum delay and silence, in seconds: a longer one is cut to this."""
RENEWALS: Final = 3
"""Maximum renewals of a timer in one period of silence."""


@dataclass(frozen=True, slots=True)
class Event:
    kind: str
    """`down` or `up`."""
    seq: int
    """Sequence of the sign after which the outage began, or that ended it; with kind and device, the event's id."""
    since: float
    reason: str = ""
    """Of `down`: `will` or `silence`."""


@dataclass(frozen=True, slots=True)
class Record:
    device: str
    state: State
    since: float
    """Start of this state; for an outage by silence, the last renewal of its timer."""
    session: int
    """Session of the last connect; 0 for a device that counts none, or has not connected yet."""
    silence: int
    """Seconds without a sign after which it counts as offline; 0: never."""
    seq: int
    """Sequence in `$MQTT_msgs` up to which its signs are applied."""
    revision: int = 0
    """Sequence in the bucket's stream; 0 before it is written."""
    written: float = 0.0
    due: float = 0.0
    """When its will takes effect if no later sign comes; 0 if no will has come since it connected."""
    events: tuple[Event, ...] = ()
    """Events of its last change. They may not be published yet."""
    willed: int = 0
    """Session of the last will since it connected."""


@dataclass(frozen=True, slots=True)
class Connect:
    seq: int
    at: float
    session: int = 0
    silence: int = 0


@dataclass(frozen=True, slots=True)
class Will:
    seq: int
    at: float
    session: int = 0
    delay: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    seq: int
    at: float


Sign = Connect | Will | Reading


def timer_s(record: Record) -> int:
    """Return the seconds of its timer, at least 1; 0: it has none.

    A reading renews a timer of silence only when a third of the period is over, so the timer is a third longer: a
    device that keeps to its period never counts as silent.
    """
    if record.state == LEAVING:
        return max(1, round(record.due - record.since))
    if record.state == ONLINE and record.silence:
        return math.ceil(record.silence * (RENEWALS + 1) / RENEWALS)
    return 0


def is_over(record: Record, at: float) -> bool:
    """Return whether its timer was over at that time. A record that is not written yet has no timer."""
    seconds = timer_s(record)
    return bool(seconds and record.written) and at > record.written + seconds


def take(record: Record | None, device: str, signs: Iterable[Sign], silence: int = 0) -> Record | None:
    """Return the record after these signs, in the order of their sequences; the same object if nothing changes.

    `silence` applies to a device whose first sign is not a connect.
    """
    for sign in sorted(signs, key=lambda sign: sign.seq):
        record = _take(record, device, sign, silence)
    return record


def expire(record: Record, seq: int = 0) -> Record:
    """Return the record after the end of its timer. Signs up to `seq` count as applied."""
    by_will = record.state == LEAVING
    since = record.since if by_will else record.written
    down = Event(DOWN, record.seq, since, WILL if by_will else SILENCE)
    return replace(
        record, state=OFFLINE, since=since, seq=max(record.seq, seq), events=(*record.events, down)
    )  # fmt: skip


def _take(record: Record | None, device: str, sign: Sign, silence: int) -> Record | None:
    if record is None:
        return _first(device, sign, silence)
    if sign.seq <= record.seq or _is_late(record, sign):
        return record
    if was_down(record, sign):
        record = expire(record)
    if isinstance(sign, Connect):
        return _online(record, sign, sign.session, sign.silence)
    if isinstance(sign, Will):
        return _will(record, sign)
    return _heard(record, sign)


def _first(device: str, sign: Sign, silence: int) -> Record:
    if isinstance(sign, Connect):
        return Record(device, ONLINE, sign.at, sign.session, sign.silence, sign.seq)
    if isinstance(sign, Will):
        return Record(
            device, LEAVING, sign.at, 0, silence, sign.seq, due=sign.at + _delay(sign), willed=sign.session
        )  # fmt: skip
    return Record(device, ONLINE, sign.at, 0, silence, sign.seq)


def _heard(record: Record, reading: Reading) -> Record:
    if record.state != ONLINE:
        return _online(record, reading, record.session, record.silence)
    period = record.silence / RENEWALS
    if not period or reading.at < record.written + period:
        return record
    return replace(record, seq=reading.seq, written=0.0)  # its timer restarts when it is written


def _is_late(record: Record, sign: Sign) -> bool:
    if isinstance(sign, Will):
        return sign.session < record.session
    return isinstance(sign, Connect) and bool(sign.session and record.due) and sign.session == record.willed


def was_down(record: Record, sign: Sign) -> bool:
    """Return whether the outage had begun before this sign.

    For a connect or a will, the time named by the will decides: both are read in order. Earlier readings may already be
    acknowledged, so for a reading only the timer as it ran decides.
    """
    if record.state == LEAVING and not isinstance(sign, Reading):
        return sign.at > record.due
    return is_over(record, sign.at)


def _online(record: Record, sign: Sign, session: int, silence: int) -> Record:
    events = (*record.events, Event(UP, sign.seq, sign.at)) if record.state == OFFLINE else record.events
    return replace(
        record, state=ONLINE, since=sign.at, session=session, silence=silence, seq=sign.seq, due=0.0, written=0.0,
        events=events, willed=0,
    )  # fmt: skip


def _will(record: Record, sign: Will) -> Record:
    if record.state == OFFLINE:
        return replace(record, seq=sign.seq, willed=sign.session, due=record.due or sign.at)
    return replace(
        record, state=LEAVING, since=sign.at, seq=sign.seq, due=sign.at + _delay(sign), written=0.0,
        willed=sign.session,
    )  # fmt: skip


def _delay(will: Will) -> int:
    """Return the delay, in whole seconds: a message's TTL is at least 1."""
    return min(max(will.delay, 1), LONGEST_S)


def encode(record: Record) -> bytes:
    """Return the record as the bucket stores it."""
    return orjson.dumps({
        "state": record.state, "since": record.since, "session": record.session, "silence": record.silence,
        "seq": record.seq, **({"due": record.due, "willed": record.willed} if record.due else {}),
        **({"events": [[each.kind, each.seq, each.since, each.reason] for each in record.events]}
           if record.events else {}),
    })  # fmt: skip


def decode(device: str, value: bytes, revision: int, written: float) -> Record:
    """Return the record of a bucket's value. Raise `ValueError`, `KeyError` or `TypeError` for anything else."""
    fields: dict[str, Any] = orjson.loads(value)
    return Record(
        device, fields["state"], fields["since"], fields["session"], fields["silence"], fields["seq"], revision,
        written, fields.get("due", 0.0), tuple(Event(*each) for each in fields.get("events", ())),
        fields.get("willed", 0),
    )  # fmt: skip
