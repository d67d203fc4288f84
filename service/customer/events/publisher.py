"""Events on the wire: a batch goes out together, and is acknowledged once.

| mode | a batch is | reply subject |
| --- | --- | --- |
| `SINGLE`, and `BATCHED` for a lone event | one event | `<inbox>.<id>-<number>` |
| `BATCHED` | 2 to `BATCH_MAX` events | `<inbox>.<id>-<number>.<flow>.<gap mode>.<sequence>.<operation>.$FI` |

`BATCHED` is ADR-50's fast-ingest with gap mode `fail`; the first event begins the batch, and the last one commits it.

The server sends acknowledgements to the reply subject, so the inbox must be impossible to guess; a batch's id must be
unique in the stream, which all tasks share. Each batch is committed at once, so none stays open: if a commit is lost,
the server abandons the batch after 10 seconds, and the events are sent again in another one.
https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Literal

from service.contracts.customer import INBOX_PREFIX
from service.customer.events.outbox import Batch
from service.nats.client import NatsClient
from service.nats.parser import Read

Mode = Literal["by the batch", "one by one"]
BATCHED: Final = "by the batch"
SINGLE: Final = "one by one"

BATCH_MAX: Final = 100
EVENT_BYTES: Final = 768
"""Maximum size in bytes of an event's headers and payload, trace context included."""
_FLOW: Final = 50
"""After this many events of a batch the server reports progress: a slow stream takes long for a whole batch."""
_BEGIN, _APPEND, _COMMIT = range(3)


class Publisher:
    """Sends batches for one task. Its `mode` may change at any time."""

    def __init__(self, nc: NatsClient, own_id: str) -> None:
        """`own_id` is the outbox's `id`."""
        self.mode: Mode = SINGLE
        self._nc = nc
        # A NUID could be guessed from the service's public one, and an acknowledgement forged.
        self._inbox = f"{INBOX_PREFIX}.{secrets.token_hex(16)}"
        self._id = own_id

    @property
    def batch_max(self) -> int:
        return BATCH_MAX if self.mode == BATCHED else 1

    async def listen(self, on_answer: Callable[[str, str, str], None]) -> None:
        """Pass each answer of the stream to `on_answer`: its subject, payload and headers."""

        def on_read(read: Read) -> None:
            for subject, payload, headers in zip(read.subjects, read.payloads, read.headers, strict=True):
                on_answer(subject, payload, headers)

        self._nc.deliver(await self._nc.subscribe(f"{self._inbox}.>"), on_read)

    def number(self, subject: str) -> int:
        """Return the number of the batch that an answer to `subject` is about, or -1."""
        number = subject[len(self._inbox) + 1 :].partition(".")[0].rpartition("-")[2]
        return int(number) if number.isdecimal() else -1

    def send(self, batch: Batch) -> None:
        """Send a batch. Raise `nats.errors.Error` if the connection does not take all of its events."""
        reply = f"{self._inbox}.{self._id}-{batch.number}"
        frames = [
            f"HPUB {subject} {reply}{end}{text}"
            for (_, subject, text, _), end in zip(batch.events, _ends(len(batch.events)), strict=True)
        ]
        self._nc.post_frames("".join(frames), [size for _, _, _, size in batch.events])


@lru_cache(maxsize=BATCH_MAX)
def _ends(size: int) -> Sequence[str]:
    """Return the end of the reply subject for each event of a batch of `size`."""
    if size == 1:
        return ("",)
    operations = [_BEGIN, *[_APPEND] * (size - 2), _COMMIT]
    return [f".{_FLOW}.fail.{sequence}.{operation}.$FI" for sequence, operation in enumerate(operations, 1)]
