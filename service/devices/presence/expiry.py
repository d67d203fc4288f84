"""The end of a timer: the server leaves a marker in its place, which one process gets.

https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-48.md (markers)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from service.contracts import devices as contract
from service.devices.presence.bucket import CHUNK, Bucket
from service.devices.presence.keeper import Call
from service.devices.presence.record import Record, timer_s
from service.sources.jetstream.message import StreamMessage

_MARKER: Final = b"Nats-Marker-Reason:"


async def ended(messages: Sequence[StreamMessage]) -> Mapping[str, Call]:
    """Return the devices whose timer has ended. A timer that was set, or taken away, calls for nothing."""
    calls: dict[str, Call] = {}
    for message in messages:
        if _MARKER in message.block:
            key = message.subject.decode(errors="replace").removeprefix(contract.KEY_PREFIX)
            calls[key.removesuffix(contract.DUE)] = Call(ended=message.sequence)
    return calls


async def forgotten(bucket: Bucket) -> Mapping[str, Call]:
    """Return the devices that have neither their timer nor its marker. Raise `Unanswered`.

    A marker stays for a day. If no process ran for longer than that, only the record shows the outage.
    """
    devices = await bucket.devices()
    there = await bucket.timers()
    suspects = [device for device in devices if device not in there]
    found: dict[str, Record] = {}
    for start in range(0, len(suspects), CHUNK):
        records = (await bucket.read(suspects[start : start + CHUNK])).records
        found |= {device: record for device, record in records.items() if timer_s(record)}
    there = await bucket.timers() if found else set()  # one may have been set meanwhile: with its record, as always
    # A record that is written before the round has a higher revision than this, and its timer runs.
    return {device: Call(ended=record.revision + 1) for device, record in found.items() if device not in there}
