"""Format a window's outages and returns as a post that its receiver accepts."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import orjson

from service.contracts import devices as contract
from service.sources.jetstream.message import StreamMessage

NAMES: Final = 20
"""Most devices named in the text. GroupMe takes 1,000 characters: https://dev.groupme.com/docs/v3#bots_post"""
_DOWN: Final = "The following device(s) have shut down:\n"
_UP: Final = "The following device(s) are back:\n"


def names(events: Sequence[StreamMessage], kind: str) -> list[str]:
    """Return the devices that these events of a kind (`down`, `up`) are about, each once, in order."""
    prefix = f"{contract.EVENT_PREFIX}{kind}."
    subjects = [event.subject.decode(errors="replace") for event in events]
    return list(dict.fromkeys(each.removeprefix(prefix) for each in subjects if each.startswith(prefix)))


def key(events: Sequence[StreamMessage]) -> str:
    """Return the `Idempotency-Key` of a post about these events, the same whichever task posts them."""
    return blake2b(repr([(event.sequence, event.sent_ns) for event in events]).encode(), digest_size=16).hexdigest()


def text(down: Sequence[str], up: Sequence[str]) -> str:
    """Return the post's text, with at most `NAMES` devices in all."""
    parts: list[str] = []
    left = NAMES
    for heading, devices in ((_DOWN, down), (_UP, up)):
        if devices:
            shown = devices[:left]
            left -= len(shown)
            more = f"and {len(devices) - len(shown):,} more\n" if len(shown) < len(devices) else ""
            parts += [heading, *(f"> {device}\n" for device in shown), more]
    return "".join(parts)


def body(form: str, down: Sequence[str], up: Sequence[str], bot_id: str) -> bytes:
    """Return the post's JSON: `json` names every device; `groupme` and `slack` take a text alone."""
    said: dict[str, Any] = {"text": text(down, up)}
    if form == "json":
        said |= {"down": list(down), "up": list(up)}
    if bot_id and form != "slack":
        said["bot_id"] = bot_id
    return orjson.dumps(said)
