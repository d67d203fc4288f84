"""Keep messages that are not a reading, connect or will (docs/adr/0014-archive-dead-letters.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from service.contracts import devices as contract
from service.devices.topic import written
from service.nats.connection import Connection
from service.sources.jetstream.dead_letters import DeadLetterStream, word
from service.sources.jetstream.message import StreamMessage
from service.writing.letters import Letters

READINGS: Final = "data"
LIFE: Final = "life"
TOPIC_MAX: Final = 1024


def letters(connection: Connection, kind: str) -> Letters[StreamMessage]:
    """Return the letters of a `kind`, `READINGS` or `LIFE`: a message's time and sequence in its stream identify it."""
    stream = DeadLetterStream(connection, contract.USER, contract.DEAD_STREAM, contract.DEAD_SUBJECT, kind)
    return Letters(stream, "Devices", _describe, contract.READING_BYTES)


def _describe(message: StreamMessage) -> tuple[str, Mapping[str, str]]:
    topic = written(message.subject.decode(errors="backslashreplace"))
    return f"{message.sent_ns}.{message.id}", {"Topic": word(topic)[:TOPIC_MAX], "Sequence": message.id}
