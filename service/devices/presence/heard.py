"""Readings as signs of life: nearly all change nothing, and cost one dictionary look-up.

| a device's record | effect of its next reading |
| --- | --- |
| never looked at by this process | a look at the record |
| online, no silence | none until the record changes; a look every `QUIET_S` seconds, as a record may be purged |
| online, with silence | the timer is renewed once a third of the period is over; none until then |
| leaving or offline | a look, and the device is online; at once if this process has already seen a later reading |

Another process may write `leaving` after this one saw a later reading. So each process also subscribes to what is
written to the bucket: that is a hint to look, never an answer, as the bucket may refuse what was published.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from service.contracts import devices as contract
from service.devices.presence.ask import Unanswered
from service.devices.presence.bucket import ROUND
from service.devices.presence.keeper import Call, Keeper
from service.devices.presence.record import ONLINE, RENEWALS, Reading, Record
from service.nats.client import NatsClient
from service.nats.parser import Read
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.logs import Repeated

log: Final = structlog.get_logger("service.devices")
_waiting: Final = Repeated(log, "readings are not taken as signs of life yet; it is tried again")

NS: Final = 1_000_000_000
MAX_DEVICES: Final = 50_000
"""Maximum devices that a process remembers; beyond it, the process forgets all and looks at each again."""
GATHER_S: Final = 0.1
HINT_S: Final = 2.0
"""Seconds to look again for a change that was published and is not in the bucket; after that, it was refused."""
PAUSE_S: Final = 1.0
QUIET_S: Final = 600.0
"""Maximum seconds without a look at a record: one that is purged leaves no hint."""
_hint: Final = re.compile(r'"state":"(?P<state>\w+)".*"silence":(?P<silence>\d+),"seq":(?P<seq>\d+)').search


@dataclass(slots=True)
class _Last:
    seq: int = 0
    at_ns: int = 0
    quiet_until_s: float = -math.inf
    """Until then, on the loop's clock, its readings change nothing."""
    hinted_s: float = -math.inf
    hinted_seq: int = 0


class Heard:
    def __init__(self, nc: NatsClient, keeper: Keeper) -> None:
        self._nc = nc
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._devices: dict[str, _Last] = {}
        self._waiting: dict[str, None] = {}
        self._some = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @property
    def devices(self) -> int:
        return len(self._devices)

    async def start(self) -> None:
        self._nc.deliver(await self._nc.subscribe(f"{contract.KEY_PREFIX}*"), self._on_hints)
        self._nc.on_reconnected.append(self._look_at_all)
        self._looking = background(self._look(), "heard")

    def seen(self, device: str, seq: int, sent_ns: int) -> None:
        """Note a reading, sent at `sent_ns` (0: now). Look at its device, unless it is quiet."""
        last = self._devices.get(device)
        if last is None:
            if len(self._devices) >= MAX_DEVICES:
                self._devices.clear()
            last = self._devices[device] = _Last()
        if seq > last.seq:
            last.seq, last.at_ns = seq, sent_ns or time.time_ns()
        if self._loop.time() >= last.quiet_until_s:
            self._call(device)

    def last(self, device: str) -> Reading | None:
        """Return the last reading seen of a device, applied or not; None if this process saw none."""
        last = self._devices.get(device)
        return Reading(last.seq, last.at_ns / NS) if last else None

    async def drain(self) -> None:
        """Return when the readings so far are applied."""
        while self._waiting and self._looking and not self._looking.done():
            await asyncio.sleep(GATHER_S)

    async def close(self) -> None:
        if self._looking:
            await cancel(self._looking)

    def _call(self, device: str) -> None:
        self._waiting[device] = None
        self._some.set()

    def _look_at_all(self) -> None:
        """Look at every device again: hints may have been missed."""
        for device, last in self._devices.items():
            last.quiet_until_s = -math.inf
            self._waiting[device] = None
        if self._waiting:
            self._some.set()

    def _on_hints(self, read: Read) -> None:
        now = self._loop.time()
        for subject, payload in zip(read.subjects, read.payloads, strict=True):
            last = self._devices.get(subject.removeprefix(contract.KEY_PREFIX))
            found = _hint(payload) if last else None
            if last is None or found is None:
                continue
            last.hinted_s, last.hinted_seq = now, int(found["seq"])
            if found["state"] != ONLINE:
                last.quiet_until_s = -math.inf
                if last.seq > last.hinted_seq:  # else only a later reading changes anything
                    self._call(subject.removeprefix(contract.KEY_PREFIX))
            elif silence := int(found["silence"]):  # it may have changed
                last.quiet_until_s = min(last.quiet_until_s, now + silence / RENEWALS)

    async def _look(self) -> None:
        while True:
            await self._some.wait()
            if len(self._waiting) < ROUND:
                await asyncio.sleep(GATHER_S)
            devices = list(self._waiting)[:ROUND]
            calls = {
                device: Call(reading=reading) for device in devices if (reading := self.last(device))
            }  # fmt: skip
            try:
                records = await self._keeper.bring(calls)
            except Unanswered as error:
                _waiting.warning("", error=str(error))
                await asyncio.sleep(PAUSE_S)
                continue
            except Exception:
                log.exception("readings are not taken as signs of life")
                await asyncio.sleep(PAUSE_S)
                continue
            for device in devices:
                self._waiting.pop(device, None)
            self._settle(calls, records)
            if not self._waiting:
                self._some.clear()

    def _settle(self, calls: Mapping[str, Call], records: Mapping[str, Record]) -> None:
        """Note until when each device's readings change nothing; look again if a hint is not in the bucket yet."""
        now = self._loop.time()
        for device, call in calls.items():
            last, record = self._devices.get(device), records.get(device)
            if last is None or record is None or call.reading is None:
                continue
            if record.state != ONLINE:
                if last.seq > call.reading.seq:  # one that came during the round
                    self._call(device)
                continue
            if record.seq < last.hinted_seq and now - last.hinted_s < HINT_S:
                self._call(device)
                continue
            quiet_s = QUIET_S
            if record.silence:
                period = record.silence / RENEWALS
                quiet_s = period - max(0.0, call.reading.at - record.written) if record.written else period
                quiet_s = min(max(quiet_s, 0.0), period, QUIET_S)
            last.quiet_until_s = now + quiet_s
