"""Decode request payloads. An invalid one raises `BadRequest`, which says what is wrong with it.

A payload is as on the wire: each character is a byte.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from service.requests.errors import BadRequest


def decode_object(payload: str) -> dict[str, Any]:
    """Return the request's JSON object. Raise `BadRequest` if it is anything else."""
    content = payload.encode("latin-1")
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = _decode_slowly(content)
    if type(body) is not dict:
        raise BadRequest("the request is not a JSON object")
    return body


def _decode_slowly(payload: bytes) -> Any:
    """Decode JSON that orjson refuses: numbers too large for a float, deep nesting. RFC 8259 sets no limits."""
    try:
        body = json.loads(payload.decode(), parse_int=float, parse_constant=_no_number)
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequest("the request has half of a character (a lone surrogate)") from None
    except RecursionError:
        raise BadRequest("the request is nested too deeply") from None
    except ValueError:
        raise BadRequest("the request is not JSON") from None
    return body


def _no_number(constant: str) -> None:
    """Refuse NaN and the infinities: Python reads them, but they are not JSON."""
    raise ValueError(constant)


def integer_of(given: Any) -> int | None:
    """Return a number without a fraction as an integer (JSON Schema counts 1.0 as one); None for anything else."""
    if type(given) is int:
        return given
    return int(given) if type(given) is float and given.is_integer() else None
