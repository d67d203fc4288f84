"""A stream for dead letters: messages that their own queue must not hand out again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import nats.errors
from nats.js.errors import APIError

from service.nats import jetstream
from service.nats.client import header_block
from service.nats.connection import Connection
from service.runtime.role import Need
from service.sources.source import Headers

ACK_S: Final = 5.0
HEADERS_BYTES: Final = 60_000
"""Room for the message's own headers; never more than half of the server's max_payload."""
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""Header names that a client may send; a server stores any."""


class DeadLetterStream:
    """Keeps the dead letters of one source. Keep a letter first, end its message after, so that neither is lost."""

    def __init__(self, connection: Connection, user: str, stream: str, subject: str, source: str) -> None:
        self._connection = connection
        self._user = user
        self._stream = stream
        self._subject = f"{subject}.{source.replace('.', '-')}"

    def need(self) -> Need:
        return Need(f"stream {self._stream}", self._look)

    @property
    def headers_room(self) -> int:
        """Bytes of a message's own headers that fit into a letter."""
        return min(HEADERS_BYTES, self._connection.nc.max_payload // 2)

    async def put(self, data: bytes, headers: Mapping[str, str], cut: str) -> str:
        """Store the message; return why the stream did not acknowledge it, or ''. `Nats-Msg-Id` prevents duplicates.

        The server's limit covers headers and body: a longer body is cut, and the header named by `cut` holds its full
        length. The message stays whole in its own stream.
        """
        context, given, room = self._connection.nc.jetstream(), dict(headers), self._room(headers)
        if len(data) > room:
            given[cut] = str(len(data))
            data = data[: self._room(given)]
        if len(header_block(given)) > self._connection.nc.max_payload:  # the server would close the connection
            return "its headers are more than the server takes (max_payload)"
        try:
            await context.publish(self._subject, data, timeout=ACK_S, headers=given)
        except (nats.errors.Error, APIError) as error:
            return str(error) or type(error).__name__
        return ""

    def _room(self, headers: Mapping[str, str]) -> int:
        return max(0, self._connection.nc.max_payload - len(header_block(headers)))

    async def _look(self) -> None:
        await jetstream.check_stream(self._connection.jetstream, self._stream, (self._subject,), self._user)


def sendable(headers: Headers, left: int) -> dict[str, str]:
    """Return the message's headers that a letter may carry, in `left` bytes: no `Nats-` header, no name twice."""
    chosen: dict[str, str] = {}
    for name, value in headers:
        size = len(name) + len(value.encode()) + len(": \r\n")
        if _NAME.fullmatch(name) and not name.lower().startswith("nats-") and name not in chosen and size <= left:
            chosen[name] = value
            left -= size
    return chosen


def word(text: str) -> str:
    """Return the text as a header's value: one line of ASCII."""
    return text.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ").strip()
