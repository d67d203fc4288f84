"""Keep messages that can never become a row in a stream (docs/adr/0014-archive-dead-letters.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Generic

from service.sources.jetstream.dead_letters import DeadLetterStream, word
from service.sources.source import M

REASON_MAX: Final = 1000
CUT_BYTES: Final = 256
"""What a letter keeps of a payload over the limit: it can never become a row, only show who sent what."""

Describe = Callable[[M], tuple[str, Mapping[str, str]]]
"""Return a message's id for `Nats-Msg-Id`, the same at each delivery, and what else its headers say, by name."""


class Letters(Generic[M]):
    """Keeps each message once, by the id that `describe` gives it. `prefix` begins the names of the headers."""

    def __init__(
        self, stream: DeadLetterStream, prefix: str, describe: Describe[M], max_bytes: int | None = None
    ) -> None:
        """`max_bytes`: of a longer payload a letter keeps `CUT_BYTES`, and says how long it was."""
        self._stream = stream
        self._prefix = prefix
        self._describe = describe
        self._max_bytes = max_bytes

    async def put(self, message: M, reason: str) -> str:
        """Keep the message and the reason why it is not a row. Return why it was not kept, or ''."""
        id_, said = self._describe(message)
        data, cut = message.data, f"{self._prefix}-Cut"
        headers = {
            "Nats-Msg-Id": id_,
            f"{self._prefix}-Reason": word(reason)[:REASON_MAX],
            **{f"{self._prefix}-{name}": value for name, value in said.items()},
        }
        if self._max_bytes and len(data) > self._max_bytes:
            headers[cut] = str(len(data))
            data = data[:CUT_BYTES]
        return await self._stream.put(data, headers, cut)
