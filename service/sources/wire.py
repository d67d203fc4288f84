"""A delivered message as the wire has it: its acknowledgement subject (ADR-15) and its headers (ADR-4)."""

from __future__ import annotations

from typing import Final

Headers = tuple[tuple[str, str], ...]

SHORT_FORM_DOTS: Final = 8
NUMBERS: Final = 5


def ack_subject(reply: bytes) -> tuple[str, int, int, int, int]:
    """The subject up to its numbers; times delivered, sequence in stream and consumer, and time stored in ns.

    Behind these is the number pending. The longer form ends with a random token.
    """
    tokens = reply.decode().split(".")
    first = 4 if reply.count(b".") == SHORT_FORM_DOTS else 6
    delivered, sequence, consumer_sequence, time_ns, _ = map(int, tokens[first : first + NUMBERS])
    return ".".join(tokens[:first]), delivered, sequence, consumer_sequence, time_ns


def parse_headers(block: bytes) -> Headers:
    """Each line's name and value, in their order."""
    pairs = (line.partition(b":") for line in block.split(b"\r\n")[1:] if b":" in line)
    return tuple((name.decode(errors="replace"), value.strip().decode(errors="replace")) for name, _, value in pairs)
