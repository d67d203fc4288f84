"""Decode request payloads. An invalid one raises `BadRequest`, which says what is wrong with it.

A payload is as on the wire: each character is a byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from service.contracts import customer as contract
from service.customer.requests.errors import BadRequest

_CLIENT_ID: Final = re.compile(f"{contract.CLIENT_ID_CHARACTER}{{1,{contract.CLIENT_ID_MAX}}}")
_usual: Final = re.compile(r'^\{"client_id": ?"([0-9A-Za-z_-]{1,128})"\}$', re.MULTILINE).findall
_RULE: Final = (
    f"client_id must be one NATS subject token: 1 to {contract.CLIENT_ID_MAX} characters, "
    "no white space or control character, no . * >"
)


def decode_object(payload: str) -> dict[str, Any]:
    """Return the request's JSON object."""
    content = payload.encode("latin-1")
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = _decode_slowly(content)
    if type(body) is not dict:
        raise BadRequest("the request is not a JSON object")
    return body


def _decode_slowly(payload: bytes) -> Any:
    """Decode JSON that orjson refuses: numbers too large for a float, deep nesting. RFC 8259 sets no bounds."""
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


def decode_client_id(payload: str) -> str:
    """Return the client id that a request asks for."""
    return client_id_of(decode_object(payload))


def usual_client_ids(payloads: Sequence[str]) -> list[str] | None:
    """Return the client ids if all requests have the most common form, else None.

    One search over all is a tenth of the work. Each payload must be one line: with any other separator, an id could
    shift to another request.
    """
    lines = "\n".join(payloads)
    client_ids: list[str] = _usual(lines)
    return client_ids if len(client_ids) == len(payloads) == lines.count("\n") + 1 else None


def client_id_of(body: dict[str, Any]) -> str:
    """Return the object's client id."""
    client_id = body.get("client_id")
    if type(client_id) is not str:
        problem = "client_id must be a string" if "client_id" in body else "client_id is missing"
        raise BadRequest(problem)
    if _CLIENT_ID.fullmatch(client_id) is None:
        raise BadRequest(_RULE)
    return client_id


def integer_of(given: Any) -> int | None:
    """Return a number without a fraction as an integer (JSON Schema counts 1.0 as one); None for anything else."""
    if type(given) is int:
        return given
    return int(given) if type(given) is float and given.is_integer() else None
