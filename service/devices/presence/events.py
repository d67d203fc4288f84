"""The events `devices.event.down.<id>` and `devices.event.up.<id>`, each once.

| a process ends | what happens |
| --- | --- |
| before the record is written | the sign is delivered again |
| after it, before its events are published | the sign is delivered again, is old, and the record has the events |
| after they are published, before the sign is acknowledged | the same, and the stream already has them |

A record keeps the events of its last change. A process that finds events there which it did not publish asks the stream
for them: the server forgets a `Nats-Msg-Id` after two minutes, and a process may come back after a day.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from typing import Any, Final

import orjson

from service.contracts import devices as contract
from service.devices.presence.ask import Asker, Request, Unanswered, failure
from service.devices.presence.record import DOWN, Event
from service.devices.presence.stream import NO_MESSAGE
from service.nats.client import header_block

_GET: Final = f"$JS.API.STREAM.MSG.GET.{contract.OUTAGES_STREAM}"

Named = Sequence[tuple[str, Event]]
"""Events, each with its device."""


class Events:
    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.downs = 0
        self.ups = 0

    async def publish(self, events: Named) -> None:
        """Publish the events in order; the stream stores each once. Raise `Unanswered`."""
        replies = await self._asker.each([Request(_subject(*each), _body(*each), _headers(*each)) for each in events])
        for (_, event), reply in zip(events, replies, strict=True):
            code, problem = failure(reply)
            if code:
                raise Unanswered(f"stream {contract.OUTAGES_STREAM} refuses an event: {problem}")
            if not orjson.loads(reply.data).get("duplicate"):
                self.downs += event.kind == DOWN
                self.ups += event.kind != DOWN

    async def missing(self, events: Named) -> Named:
        """Return those that the stream does not have. Raise `Unanswered`."""
        asked = [Request(_GET, orjson.dumps({"last_by_subj": _subject(*each)})) for each in events]
        replies = await self._asker.each(asked)
        found: list[tuple[str, Event]] = []
        for (device, event), reply in zip(events, replies, strict=True):
            code, problem = failure(reply)
            if code not in {0, NO_MESSAGE}:
                raise Unanswered(f"stream {contract.OUTAGES_STREAM}: {problem}")
            if code or _seq(orjson.loads(reply.data)["message"]) < event.seq:
                found.append((device, event))
        return found


def _subject(device: str, event: Event) -> str:
    return f"{contract.EVENT_PREFIX}{event.kind}.{device}"


def _body(device: str, event: Event) -> bytes:
    reason = {"reason": event.reason} if event.reason else {}
    return orjson.dumps({"device": device, **reason, "since": event.since, "seq": event.seq})


def _headers(device: str, event: Event) -> bytes:
    return header_block({"Nats-Msg-Id": f"{event.kind}.{device}.{event.seq}"})


def _seq(message: dict[str, Any]) -> int:
    return int(orjson.loads(b64decode(message["data"]))["seq"])
