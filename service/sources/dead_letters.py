"""A stream that keeps messages which their own queue is not to hand out again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import nats.errors
from nats.js.errors import APIError

from service.runtime import jetstream
from service.runtime.connection import Connection
from service.runtime.role import Need
from service.sources.source import Headers

ACK_S: Final = 5.0
ENVELOPE_BYTES: Final = 64 * 1024
"""Of the server's largest payload, left to the headers. A body that is cut is whole in its own stream."""
HEADERS_BYTES: Final = 60_000
"""Of these, left to the message's own."""
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""What a client may send as a header's name; a server stores any."""


class DeadLetterStream:
    """Letters of one source, acknowledged: a letter is kept before its message is ended, never the other way round."""

    def __init__(self, connection: Connection, user: str, stream: str, subject: str, source: str) -> None:
        self._connection = connection
        self._user = user
        self._stream = stream
        self._subject = f"{subject}.{source.replace('.', '-')}"

    def need(self) -> Need:
        return Need(f"stream {self._stream}", self._look)

    @property
    def room(self) -> int:
        """Bytes of the largest payload that it takes."""
        return self._connection.nc.max_payload - ENVELOPE_BYTES

    async def put(self, data: bytes, headers: Mapping[str, str]) -> str:
        """Keep the message. Returns why it was not kept; empty: it was. `Nats-Msg-Id` makes it once."""
        context = self._connection.nc.jetstream()
        try:
            await context.publish(self._subject, data, timeout=ACK_S, headers=dict(headers))
        except (nats.errors.Error, APIError) as error:
            return str(error) or type(error).__name__
        return ""

    async def _look(self) -> None:
        await jetstream.check_stream(self._connection.jetstream, self._stream, (), self._user)


def sendable(headers: Headers) -> dict[str, str]:
    """The message's own headers that a letter can have: none that means something to the server, no second one of a
    name, and no more than there is room for.
    """
    chosen: dict[str, str] = {}
    left = HEADERS_BYTES
    for name, value in headers:
        size = len(name) + len(value.encode()) + len(": \r\n")
        if _NAME.fullmatch(name) and not name.startswith("Nats-") and name not in chosen and size <= left:
            chosen[name] = value
            left -= size
    return chosen


def word(text: str) -> str:
    """As a header's value: one line of ASCII."""
    return text.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ").strip()
