"""What a request's payload asks for. Each function raises `BadRequest`, which says what is wrong with it.

A payload is as the wire has it: each character is a byte.
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
    """The JSON object that a request is."""
    content = payload.encode("latin-1")
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = _decode_slowly(content)
    if type(body) is not dict:
        raise BadRequest("the request is not a JSON object")
    return body


def _decode_slowly(payload: bytes) -> Any:
    """What orjson refuses may be JSON: a number that no float holds, or a deep one. RFC 8259 sets no bounds."""
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
    """NaN and the infinities are Python's own."""
    raise ValueError(constant)


def decode_client_id(payload: str) -> str:
    """The client id that a request asks for."""
    return client_id_of(decode_object(payload))


def usual_client_ids(payloads: Sequence[str]) -> list[str] | None:
    """The client ids of requests that have the most common form, all of them; else None.

    One search over all is a tenth of the work. Each must be a line: bodies that are joined in any other way could
    shift an id to another request.
    """
    lines = "\n".join(payloads)
    client_ids: list[str] = _usual(lines)
    return client_ids if len(client_ids) == len(payloads) == lines.count("\n") + 1 else None


def client_id_of(body: dict[str, Any]) -> str:
    """The object's client id."""
    client_id = body.get("client_id")
    if type(client_id) is not str:
        problem = "client_id must be a string" if "client_id" in body else "client_id is missing"
        raise BadRequest(problem)
    if _CLIENT_ID.fullmatch(client_id) is None:
        raise BadRequest(_RULE)
    return client_id


def integer_of(given: Any) -> int | None:
    """A JSON number without a fraction, however it is written: 1.0 is an integer to JSON Schema. None for all else."""
    if type(given) is int:
        return given
    return int(given) if type(given) is float and given.is_integer() else None
