"""Keep messages that can never become a row (docs/adr/0014-archive-dead-letters.md)."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from service.archive.event import event_of
from service.sources.jetstream.dead_letters import DeadLetterStream, word
from service.sources.source import Message

REASON_MAX: Final = 1000


class Letters:
    """Keeps each event once: source, client and key make up its `Nats-Msg-Id`."""

    def __init__(self, stream: DeadLetterStream, source: str) -> None:
        self._stream = stream
        self._source = source

    async def put(self, message: Message, reason: str) -> str:
        client_id, key, _ = event_of(message)
        whose = blake2b(f"{self._source} {client_id}".encode(errors="surrogatepass"), digest_size=16)
        headers = {
            "Nats-Msg-Id": f"{word(key)[:512]} {whose.hexdigest()}",
            "Archive-Reason": word(reason)[:REASON_MAX],
            "Archive-Client": word(client_id)[:1024],
            "Archive-Event": word(key)[:512],
            **({"Archive-Sequence": message.id} if message.sequence is not None else {}),
        }
        return await self._stream.put(message.data, headers, "Archive-Cut")
