"""A delivered message as the wire has it: its acknowledgement subject (ADR-15) and its headers (ADR-4)."""

from __future__ import annotations

from functools import partial
from typing import Final

from service.sources.source import Headers, Message

SHORT_FORM_TOKENS: Final = 9
NUMBERS: Final = 5
WHITE: Final = " \t\n\r\v\f"


def position(handle: str) -> tuple[int, int, int, int]:
    """Times delivered, sequence in stream and consumer, and time stored in ns.

    Behind these is the number pending. The longer form ends with a random token.
    """
    tokens = handle.split(".")
    first = 4 if len(tokens) == SHORT_FORM_TOKENS else 6
    delivered, sequence, consumer_sequence, time_ns, _ = tokens[first : first + NUMBERS]
    return int(delivered), int(sequence), int(consumer_sequence), int(time_ns)


def ack_prefix(handle: str) -> str:
    """The subject up to its numbers."""
    tokens = handle.split(".")
    return ".".join(tokens[: 4 if len(tokens) == SHORT_FORM_TOKENS else 6])


def parse_headers(block: bytes) -> Headers:
    """Each line's name and value, in their order."""
    lines = block.decode(errors="replace").split("\r\n")
    pairs = [line.partition(":") for line in lines[1:] if ":" in line]
    return tuple([(name, value.strip(WHITE)) for name, _, value in pairs])


def make_message(subject: bytes, reply: bytes, data: bytes, block: bytes) -> Message:
    """Of a message as it came, its headers in one block."""
    handle = reply.decode()
    delivered, sequence, number, time_ns = position(handle)
    return Message(
        handle=handle,
        id=str(sequence),
        sequence=sequence,
        data=data,
        subject=subject,
        read_headers=partial(parse_headers, block),
        times_received=delivered,
        sent_ns=time_ns,
        size=len(subject) + len(reply) + len(data) + len(block),
        number=number,
    )
