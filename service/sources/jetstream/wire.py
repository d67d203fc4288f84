"""Parse a delivered message: its acknowledgement subject (ADR-15) and its headers (ADR-4)."""

from __future__ import annotations

import re
from typing import Final

from service.sources.source import Headers, Message

SHORT_FORM_TOKENS: Final = 9
WHITE: Final = " \t\n\r\v\f"
_message_id: Final = re.compile(rb"\r\nnats-msg-id:(.*?)(?:\r\n|\Z)", re.IGNORECASE | re.DOTALL).search


def position(handle: str) -> tuple[int, int, int, int]:
    """Return times delivered, stream sequence, consumer sequence, and time stored in ns since 1970.

    The number pending follows these. The longer form starts with domain and account hash and ends with a random token.
    """
    delivered, sequence, consumer_sequence, time_ns = map(int, _numbers(handle.split(".")))
    return delivered, sequence, consumer_sequence, time_ns


def _numbers(tokens: list[str]) -> list[str]:
    return tokens[4:8] if len(tokens) == SHORT_FORM_TOKENS else tokens[6:10]  # behind domain and account


def message_id(block: bytes) -> str | None:
    """Return the header Nats-Msg-Id without parsing the others; None if there is no such header."""
    found = _message_id(block)
    return found[1].decode(errors="replace").strip(WHITE) if found else None


def ack_prefix(handle: str) -> str:
    """Return the acknowledgement subject up to its numbers."""
    tokens = handle.split(".")
    return ".".join(tokens[: 4 if len(tokens) == SHORT_FORM_TOKENS else 6])


def parse_headers(block: bytes) -> Headers:
    """Return each header line's name and value, in order."""
    lines = block.decode(errors="replace").split("\r\n")[1:]
    return tuple([(line[:at], line[at + 1 :].strip(WHITE)) for line in lines if (at := line.find(":")) >= 0])


def make_message(subject: bytes, reply: bytes, data: bytes, block: bytes) -> Message:
    """Make a message from its parts on the wire; its headers stay one unparsed block."""
    handle = reply.decode()
    delivered, sequence, number, time_ns = _numbers(handle.split("."))
    return Message(
        handle, sequence, int(sequence), data, subject, block, parse_headers, int(delivered), int(time_ns),
        len(subject) + len(reply) + len(data) + len(block), int(number),
    )  # fmt: skip
