"""Encode events for the stream: with the same headers each time they are sent, so that it detects duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from service.nats.client import header_lines, sizes_of

Event = tuple[int, str, str, int]
"""Number, subject, everything after the reply subject on the wire, and size of the payload in bytes."""

FIRST: Final = 10**15
"""Number of the first event; from here on, all numbers have the same length."""
ID_LENGTH: Final = 33
"""Length of every event id, made here or given, so that header blocks without a context have the same length."""
_HEAD: Final = "NATS/1.0\r\nNats-Msg-Id: "


def make(
    own: str,
    first: int,
    subjects: Sequence[str],
    payloads: Sequence[str],
    context: Mapping[str, str] | None,
    ids: Sequence[str] = (),
) -> list[Event]:
    """Return events with numbers from `first` on. Without `ids`, each id is made of `own` and its number.

    `context` holds headers that propagate the request's span.
    """
    sizes, numbers = sizes_of(payloads), range(first, first + len(payloads))
    lines = header_lines(context).decode() if context else ""
    head = len(_HEAD) + ID_LENGTH + len("\r\n\r\n") + len(lines.encode())
    return [
        (number, subject, f" {head} {head + size}\r\n{_HEAD}{own_id}\r\n{lines}\r\n{payload}\r\n", size)
        for number, subject, own_id, payload, size in zip(
            numbers, subjects, ids or [f"{own}.{number}" for number in numbers], payloads, sizes, strict=True
        )
    ]


def size_bytes(events: Sequence[Event]) -> int:
    """Return the approximate size of events in bytes: their characters, as nearly all are ASCII."""
    return sum([len(subject) + len(text) for _, subject, text, _ in events])
