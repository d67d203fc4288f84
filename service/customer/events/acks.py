"""Read the stream's answer to a batch of one or more events.

| answer | read as |
| --- | --- |
| a publish acknowledgement of our stream | `Stored`: all events, or only the first ones |
| an error, no responders, another stream's acknowledgement | `Refused` |
| anything else, such as ADR-50's flow control (`type` is `ack`, `gap` or `err`) | None: no acknowledgement yet |

A user that may subscribe to events sees their reply subjects, and can make JetStream's API answer to one. Such an
answer has a `type`, or is a stored message: neither is read as an acknowledgement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from service.contracts.stream import STREAM

_BATCHES_DISABLED: Final = 10205
"""JetStream's error code for a stream without `allow_batched`."""


@dataclass(frozen=True, slots=True)
class Stored:
    count: int


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str
    takes_no_batches: bool = False


def read(payload: str, headers: str, sent: int) -> Stored | Refused | None:
    """Return the stream's answer to a batch of `sent` events, or None if this is not it. Each character is a byte."""
    if headers.startswith("NATS/1.0 503"):
        return Refused("no stream takes the subject")
    answer = _decode(payload.encode("latin-1"))
    if answer is None or "stream" not in answer or "type" in answer:
        return None
    if answer.get("error"):
        return _refused(answer["error"])
    if answer["stream"] != STREAM:
        return Refused(f"an acknowledgement, and not of stream {STREAM}")
    return _stored(answer.get("count"), sent)


def _decode(payload: bytes) -> dict[str, Any] | None:
    try:
        answer = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return answer if type(answer) is dict else None


def _stored(count: Any, sent: int) -> Stored | Refused:
    if sent == 1:
        return Stored(1)
    if type(count) is not int:  # one acknowledgement per message: the server does not support batches
        return Refused("the server takes no batches", takes_no_batches=True)
    if not 0 < count <= sent:
        return Refused(f"an acknowledgement of {count} events of {sent}")
    return Stored(count)


def _refused(error: Any) -> Refused:
    if type(error) is not dict:
        return Refused(str(error))
    return Refused(str(error.get("description", error)), error.get("err_code") == _BATCHES_DISABLED)
