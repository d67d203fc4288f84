"""The stream that keeps what was received too often, or can be handed to nobody."""

from __future__ import annotations

from typing import Final

import nats.errors
import structlog
from nats.js.errors import APIError

from service.runtime.connection import Connection
from service.runtime.logs import Repeated
from service.sources.pulls import Delivery
from service.sources.wire import parse_headers

log: Final = structlog.get_logger("service.sources")
_kept: Final = Repeated(log, "dead letter not kept; the message comes again")

DEAD_S: Final = 5.0
SUBJECT_BYTES: Final = 1024
ENVELOPE_BYTES: Final = 64 * 1024
"""Of the server's largest payload, left to the headers. A body that is cut is whole in its own stream."""


class DeadLetters:
    """Of one stream, on a subject of the stream of dead letters."""

    def __init__(self, connection: Connection, stream: str, subject: str) -> None:
        self.kept = 0
        self.refused = 0
        """How often one could not be kept: that stream is full, say. The message stays in its own."""
        self._connection = connection
        self._stream = stream
        self._subject = f"{subject}.{stream}"

    async def keep(self, delivery: Delivery, sequence: int, id_: str, reason: str) -> bool:
        """Whether it is kept for certain. `id_` is the same each time."""
        subject, _, data, headers = delivery
        said = {
            "Nats-Msg-Id": id_,
            "Queue-Reason": reason,
            "Queue-Subject": subject.decode("ascii", "backslashreplace")[:SUBJECT_BYTES],
            "Queue-Sequence": str(sequence),
        }
        room = self._connection.nc.max_payload - ENVELOPE_BYTES
        if len(data) > room:
            said["Queue-Cut"] = str(len(data))
        own = {name: value for name, value in parse_headers(headers) if not name.startswith("Nats-")}
        try:
            await self._connection.jetstream.publish(
                self._subject, data[:room], timeout=DEAD_S, headers={**own, **said}
            )
        except (nats.errors.Error, APIError) as error:
            self.refused += 1
            _kept.warning("", error=str(error) or type(error).__name__, sequence=sequence)
            return False
        self.kept += 1
        log.warning("dead letter", stream=self._stream, sequence=sequence, reason=reason)
        return True
