"""Dead letters of a stream: messages received too often, or too large for any client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from service.runtime.logs import Repeated
from service.sources.jetstream.dead_letters import DeadLetterStream, sendable
from service.sources.jetstream.message import StreamMessage

log: Final = structlog.get_logger("service.sources")
_kept: Final = Repeated(log, "dead letter not kept; the message comes again")

SUBJECT_BYTES: Final = 1024


@dataclass(slots=True)
class SetAside:
    """Counts of this process's dead letters."""

    kept: int = 0
    refused: int = 0
    """Failed attempts to keep one, because the dead-letter stream is full, say. Its message stays in its stream, is not
    handed out, and is tried again at its next delivery.
    """


class Redrive:
    """Decides which messages are dead letters, keeps those, and counts them in `counts`."""

    def __init__(self, letters: DeadLetterStream, counts: SetAside, max_deliver: int, max_bytes: int) -> None:
        self.letters = letters
        self._counts = counts
        self._max_deliver = max_deliver
        self._max_bytes = max_bytes

    def split(self, messages: Sequence[StreamMessage]) -> tuple[list[StreamMessage], list[tuple[StreamMessage, str]]]:
        """Return the messages to hand out, and the dead letters, each with the reason."""
        judged = [(message, self._reason(message)) for message in messages]
        return [message for message, reason in judged if not reason], [dead for dead in judged if dead[1]]

    def _reason(self, message: StreamMessage) -> str:
        if message.times_received > self._max_deliver:
            return f"received {message.times_received - 1} times and not deleted"
        if message.size > self._max_bytes:
            return f"of {message.size} bytes, too large for a gRPC response"
        return ""

    async def keep(self, message: StreamMessage, id_: str, reason: str) -> bool:
        """Return whether the dead-letter stream acknowledged it. `id_` must be the same at each attempt."""
        said = {
            "Nats-Msg-Id": id_,
            "Queue-Reason": reason,
            "Queue-Subject": message.subject.decode("ascii", "backslashreplace")[:SUBJECT_BYTES],
            "Queue-Sequence": message.id,
        }
        headers = message.headers
        own = sendable(headers, self.letters.headers_room)
        if len(own) < len(headers):
            said["Queue-Headers-Left-Out"] = str(len(headers) - len(own))
        problem = await self.letters.put(message.data, {**own, **said}, "Queue-Cut")
        if problem:
            self._counts.refused += 1
            _kept.warning("", error=problem, sequence=message.sequence)
            return False
        self._counts.kept += 1
        log.warning("dead letter", sequence=message.sequence, reason=reason)
        return True
