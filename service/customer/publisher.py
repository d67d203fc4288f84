"""Events on the wire: a batch goes out together, and is acknowledged once.

| mode | a batch is | reply subject |
| --- | --- | --- |
| `SINGLE`, and `BATCHED` for a lone event | one event | `<inbox>.<id>-<number>` |
| `BATCHED` | 2 to `BATCH_MAX` events | `<inbox>.<id>-<number>.<flow>.<gap mode>.<sequence>.<operation>.$FI` |

`BATCHED` is ADR-50's fast-ingest with gap mode `fail`; the last event commits what the first began.

The server hands out acknowledgements by reply subject, so the inbox is one that nobody can guess; a batch's id is
unique in the stream, which all tasks share. A burst leaves nothing open: a batch whose commit got lost is abandoned by
the server after 10 seconds, and its events are sent again in another one.
https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from nats.aio.msg import Msg

from service.customer.contract import INBOX_PREFIX
from service.customer.outbox import Batch, Event
from service.runtime.nats_client import NatsClient

Mode = Literal["by the batch", "one by one"]
BATCHED: Final = "by the batch"
SINGLE: Final = "one by one"

BATCH_MAX: Final = 100
EVENT_BYTES: Final = 768
"""Of an event's headers and payload at most, its trace's context among them."""
_FLOW: Final = 50
"""The server says after so many events of a batch that it is alive: a slow stream takes long for a whole one."""
_BEGIN, _APPEND, _COMMIT = range(3)


class Publisher:
    """Sends batches for one task. Its `mode` may change at any time."""

    def __init__(self, nc: NatsClient) -> None:
        self.mode: Mode = SINGLE
        self._nc = nc
        # A NUID could be guessed from the service's public one, and an acknowledgement forged.
        self._inbox = f"{INBOX_PREFIX}.{secrets.token_hex(16)}"
        self._id = secrets.token_hex(8)
        self._id_bytes = self._id.encode()

    @property
    def batch_max(self) -> int:
        return BATCH_MAX if self.mode == BATCHED else 1

    async def listen(self, on_answer: Callable[[Msg], Awaitable[None]]) -> None:
        """Have each answer of the stream handed over."""
        await self._nc.subscribe(f"{self._inbox}.>", cb=on_answer)

    def number(self, subject: str) -> int:
        """The number of the batch that an answer to `subject` is about; -1: of none."""
        number = subject[len(self._inbox) + 1 :].partition(".")[0].rpartition("-")[2]
        return int(number) if number.isdecimal() else -1

    def send(self, batch: Batch) -> None:
        """Raises `nats.errors.Error` when the connection does not take all of them."""
        reply, events = f"{self._inbox}.{self._id}-{batch.number}", batch.events
        if len(events) == 1:
            (event,) = events
            self._nc.post(event.subject, event.payload, reply, self._headers(event))
            return
        reply = f"{reply}.{_FLOW}.fail."
        last = len(events)
        for sequence, event in enumerate(events, 1):
            operation = _COMMIT if sequence == last else _APPEND if sequence > 1 else _BEGIN
            self._nc.post(event.subject, event.payload, f"{reply}{sequence}.{operation}.$FI", self._headers(event))

    def _headers(self, event: Event) -> bytes:
        """The same for each time an event is sent, so that the stream knows it again."""
        return b"NATS/1.0\r\nNats-Msg-Id: %b.%d\r\n%b\r\n" % (self._id_bytes, event.number, event.context)
