"""The bucket `devices`: each device's record and its timer.

Record and timer are written together, those of a whole round in one atomic batch: a crash leaves all of it or nothing.
Each record is written by compare-and-set, so a batch that meets another process's change writes nothing. The server
stages each batch in its own files: this takes 15 ms for the smallest batch, and 30 ms for 250 devices.

A timer that is no longer needed expires, and its marker finds a record without one. Deleting the timer could delete the
marker of an expired one: the message that is delivered again if a process ends before it has reported the outage.
https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md (batches, 2.12 and later)
https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-43.md (a message's TTL, and markers)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import nats.errors
import orjson

from service.contracts import devices as contract
from service.devices.presence import record as records
from service.devices.presence.ask import GONE, Asker, Reply, Request, Unanswered, failure
from service.devices.presence.record import Record, timer_s
from service.nats import jetstream
from service.nats.client import NatsClient, header_block
from service.nats.connection import Connection
from service.nats.fit import NS
from service.runtime.errors import ServiceError
from service.runtime.role import Need
from service.sources.jetstream.wire import parse_headers

ROUND: Final = 400
"""Maximum devices per batch: each takes two messages, and the server accepts 1,000."""
CHUNK: Final = 500
"""Maximum records per read: the server refuses more than 1,024."""
WRONG_SEQUENCE: Final = frozenset({10071, 10164})
"""https://github.com/nats-io/nats-server/blob/main/server/errors.json (JSStreamWrongLastSequence...)"""
_INFO: Final = f"$JS.API.STREAM.INFO.{contract.BUCKET_STREAM}"
_DIRECT: Final = f"$JS.API.DIRECT.GET.{contract.BUCKET_STREAM}"
_is_device: Final = re.compile(contract.DEVICE_ID).fullmatch

Changes = Sequence[tuple[Record | None, Record]]
"""Records as they were read (None: there was none) and as they must become."""


class Found(NamedTuple):
    records: dict[str, Record]
    deleted: dict[str, int]
    """Revision of each key that exists without a record: because it was deleted, for example."""


class Conflict(Exception):
    """Another process changed one of the records first. Nothing was written."""


class Bucket:
    def __init__(self, connection: Connection, asker: Asker) -> None:
        self._connection = connection
        self._nc: NatsClient = connection.nc
        self._asker = asker
        self._process = secrets.token_hex(8)
        """Prefix of this process's batch ids."""
        self._number = 0

    def need(self) -> Need:
        return Need(f"KV bucket {contract.BUCKET}", self._look)

    async def read(self, devices: Sequence[str]) -> Found:
        """Return the record of each device that has one. Raise `Unanswered`.

        A replica may lag, so use the result only to show it, or for compare-and-set.
        """
        found = Found({}, {})
        for start in range(0, len(devices), CHUNK):
            subjects = [f"{contract.KEY_PREFIX}{device}" for device in devices[start : start + CHUNK]]
            for reply in await self._asker.all(Request(_DIRECT, orjson.dumps({"multi_last": subjects}))):
                device, revision, record = _record(reply)
                if record:
                    found.records[device] = record
                else:
                    found.deleted[device] = revision
        return found

    async def get(self, device: str) -> Record | None:
        """Return the device's record. Raise `Unanswered`."""
        reply = await self._asker.one(Request(f"{_DIRECT}.{contract.KEY_PREFIX}{device}", b""))
        if reply.status not in {0, GONE}:
            raise Unanswered(f"the bucket answered {reply.status}")
        return None if reply.status else _record(reply)[2]

    async def devices(self) -> list[str]:
        """Return the ids of all devices with a record, in order. Raise `Unanswered`."""
        return sorted(filter(_is_device, await self._keys("*")))

    async def last_seq(self) -> int:
        """Return the highest `seq` of all records; 0 if there is none. Raise `Unanswered`."""
        found = await self.devices()
        parts = [await self.read(found[start : start + CHUNK]) for start in range(0, len(found), CHUNK)]
        return max((record.seq for part in parts for record in part.records.values()), default=0)

    async def timers(self) -> set[str]:
        """Return the ids of all devices with a timer, or the marker of an expired one. Raise `Unanswered`."""
        return {key.removesuffix(contract.DUE) for key in await self._keys(f"*{contract.DUE}")}

    async def write(self, changes: Changes, deleted: Mapping[str, int]) -> dict[str, int]:
        """Write all records with their timers, or nothing; return each one's revision. Raise `Conflict`, `Unanswered`.

        After `Unanswered`, they may have been written.
        """
        self._number += 1
        frames = list(self._frames(changes, deleted, f"{self._process}.{self._number}"))
        if not self._nc.is_connected:
            raise Unanswered("not connected to NATS")
        try:
            for request in frames[:-1]:
                self._nc.post(request.subject, request.payload, headers=request.headers)
        except nats.errors.Error as error:
            raise Unanswered(str(error) or type(error).__name__) from None
        reply = await self._asker.one(frames[-1])
        code, problem = failure(reply)
        if code in WRONG_SEQUENCE:
            raise Conflict
        if code:
            raise Unanswered(f"the bucket refuses records: {problem}")
        first = int(orjson.loads(reply.data)["seq"]) - len(frames) + 1
        places = [index for index, request in enumerate(frames) if not request.subject.endswith(contract.DUE)]
        return {after.device: first + place for (_, after), place in zip(changes, places, strict=True)}

    def _frames(self, changes: Changes, deleted: Mapping[str, int], batch: str) -> Iterator[Request]:
        messages: list[tuple[str, bytes, dict[str, str]]] = []
        for before, after in changes:
            subject = f"{contract.KEY_PREFIX}{after.device}"
            expected = str(before.revision if before else deleted.get(after.device, 0))
            messages.append((subject, records.encode(after), {"Nats-Expected-Last-Subject-Sequence": expected}))
            if seconds := timer_s(after):
                messages.append((f"{subject}{contract.DUE}", b"", {"Nats-TTL": str(seconds)}))
        if len(messages) == 1:
            ((subject, payload, own),) = messages
            yield Request(subject, payload, header_block(own))
            return
        for number, (subject, payload, own) in enumerate(messages, 1):
            last = {"Nats-Batch-Commit": "1"} if number == len(messages) else {}
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number), **own, **last}
            yield Request(subject, payload, header_block(headers))

    async def _keys(self, pattern: str) -> list[str]:
        found: list[str] = []
        while True:
            asked = {"subjects_filter": f"{contract.KEY_PREFIX}{pattern}", "offset": len(found)}
            reply = await self._asker.one(Request(_INFO, orjson.dumps(asked)))
            code, problem = failure(reply)
            if code:
                raise Unanswered(f"the bucket cannot be listed: {problem}")
            answer = orjson.loads(reply.data)
            page = [subject.removeprefix(contract.KEY_PREFIX) for subject in answer["state"].get("subjects") or {}]
            found += page
            if not page or len(found) >= int(answer.get("total") or 0):
                return found

    async def _look(self) -> None:
        subjects = [f"{contract.KEY_PREFIX}any", f"{contract.KEY_PREFIX}any{contract.DUE}"]
        name = contract.BUCKET_STREAM
        config = await jetstream.check_stream(self._connection.jetstream, name, subjects, contract.USER)
        if unfit := _unfit(config):
            raise ServiceError(f"stream {name} {unfit}", jetstream.CORRECT)


def _unfit(config: Mapping[str, Any]) -> str:
    """Return why the bucket cannot keep records and timers; '' if it can."""
    for name, why in (
        ("allow_atomic", "takes no atomic batches"),
        ("allow_msg_ttl", "has no timers"),
        ("allow_direct", "answers no direct gets"),
    ):
        if not config.get(name):
            return f"{why} ({name})"
    if int(config.get("max_msgs_per_subject") or 0) != 1:
        return "keeps more than the last record of a device (max_msgs_per_subject)"
    if (kept := int(config.get("subject_delete_marker_ttl") or 0) / NS) < contract.MARKERS_S:
        return f"forgets the end of a timer after {kept:g} seconds (subject_delete_marker_ttl)"
    return ""


def _record(reply: Reply) -> tuple[str, int, Record | None]:
    """Return device, revision and record of a direct reply; None if the key is deleted or holds no record."""
    headers = dict(parse_headers(reply.headers))
    device = headers.get("Nats-Subject", "").removeprefix(contract.KEY_PREFIX)
    written = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
    revision = int(headers["Nats-Sequence"])
    try:
        return device, revision, records.decode(device, reply.data, revision, written)
    except (ValueError, LookupError, TypeError):
        return device, revision, None
