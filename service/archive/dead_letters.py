"""Keep messages that can never become a row (docs/adr/0014-archive-dead-letters.md)."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from service.archive.event import Message, event_of
from service.sources.jetstream.dead_letters import DeadLetterStream, word
from service.sources.jetstream.message import StreamMessage
from service.writing.letters import Letters


def letters(stream: DeadLetterStream, source: str) -> Letters[Message]:
    """Return the letters of a source: source, client and key identify an event."""

    def describe(message: Message) -> tuple[str, Mapping[str, str]]:
        client_id, key, _ = event_of(message)
        whose = blake2b(f"{source} {client_id}".encode(errors="surrogatepass"), digest_size=16)
        said = {"Client": word(client_id)[:1024], "Event": word(key)[:512]}
        if isinstance(message, StreamMessage):
            said["Sequence"] = message.id
        return f"{word(key)[:512]} {whose.hexdigest()}", said

    return Letters(stream, "Archive", describe)
