"""A stream that keeps messages which their own queue is not to hand out again."""

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
"""For the message's own headers, and at most half of what the server takes."""
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
    def headers_room(self) -> int:
        """Bytes of a message's own headers that a letter takes."""
        return min(HEADERS_BYTES, self._connection.nc.max_payload // 2)

    async def put(self, data: bytes, headers: Mapping[str, str], cut: str) -> str:
        """Keep the message. Returns why it was not kept; empty: it was. `Nats-Msg-Id` makes it once.

        The server's largest payload is headers and body: a body that is too long is cut, and the header `cut` has its
        length. It is whole in its own stream.
        """
        context, given, room = self._connection.nc.jetstream(), dict(headers), self._room(headers)
        if len(data) > room:
            given[cut] = str(len(data))
            data = data[: self._room(given)]
        if len(header_block(given)) > self._connection.nc.max_payload:  # the server would end the connection
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
    """The message's own headers that a letter can have: none that means something to the server, no second one of a
    name, and no more than `left` bytes.
    """
    chosen: dict[str, str] = {}
    for name, value in headers:
        size = len(name) + len(value.encode()) + len(": \r\n")
        if _NAME.fullmatch(name) and not name.lower().startswith("nats-") and name not in chosen and size <= left:
            chosen[name] = value
            left -= size
    return chosen


def word(text: str) -> str:
    """As a header's value: one line of ASCII."""
    return text.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ").strip()
