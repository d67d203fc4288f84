"""The stream of messages that can never become a row (docs/adr/0014-archive-dead-letters.md)."""

from __future__ import annotations

from typing import Final, Protocol

import nats.errors
from nats.js.errors import APIError, NotFoundError

from service.archive import contract
from service.archive.event import Event
from service.runtime import jetstream
from service.runtime.connection import Connection
from service.runtime.errors import ServiceError

ACK_S: Final = 5.0
HEADERS_BYTES: Final = 4096
REASON_MAX: Final = 1000


class DeadLetters(Protocol):
    async def put(self, event: Event, reason: str) -> str:
        """Keep the message and why it is no row. Returns why it was not kept; empty: it was."""
        ...


class DeadLetterStream:
    """Acknowledged, and once for each event: the event's own key is the `Nats-Msg-Id`."""

    def __init__(self, connection: Connection, source: str) -> None:
        self._connection = connection
        self._source = source

    async def look(self) -> None:
        """Raises `ServiceError` unless the stream is there."""
        try:
            await self._connection.jetstream.stream_info(contract.DEAD_STREAM)
        except NotFoundError:
            raise ServiceError(f"stream {contract.DEAD_STREAM} does not exist", jetstream.PROVISION) from None
        except (nats.errors.Error, APIError) as error:
            raise jetstream.explain(f"stream {contract.DEAD_STREAM}", error) from None

    async def put(self, event: Event, reason: str) -> str:
        room = self._connection.nc.max_payload - HEADERS_BYTES
        headers = {
            "Nats-Msg-Id": _word(f"{self._source} {event.client_id} {event.key}")[:1024],
            "Archive-Reason": _word(reason)[:REASON_MAX],
            "Archive-Client": _word(event.client_id)[:1024],
            "Archive-Event": _word(event.key)[:512],
            **({"Archive-Sequence": str(event.sequence)} if event.sequence is not None else {}),
            **({"Archive-Cut": str(len(event.body))} if len(event.body) > room else {}),
        }
        try:
            await self._connection.nc.jetstream().publish(
                f"{contract.DEAD_SUBJECT}.{self._source}", event.body[:room], timeout=ACK_S, headers=headers
            )
        except (nats.errors.Error, APIError) as error:
            return str(error) or type(error).__name__
        return ""


def _word(text: str) -> str:
    """As a header's value: one line of ASCII."""
    return text.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ").strip()
