"""What a request's bytes ask for. Each function raises `BadRequest`, which says what is wrong with them."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from service.customer import contract
from service.customer.errors import BadRequest

_CLIENT_ID: Final = re.compile(f"{contract.CLIENT_ID_CHARACTER}{{1,{contract.CLIENT_ID_MAX}}}")
_RULE: Final = (
    f"client_id must be one NATS subject token: 1 to {contract.CLIENT_ID_MAX} characters, "
    "no white space or control character, no . * >"
)


def decode_object(payload: bytes) -> dict[str, Any]:
    """The JSON object that a request is."""
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise BadRequest("the request is not JSON") from None
    if type(body) is not dict:
        raise BadRequest("the request is not a JSON object")
    return body


def decode_client_id(payload: bytes) -> str:
    """The client id that a request asks for."""
    return client_id_of(decode_object(payload))


def client_id_of(body: dict[str, Any]) -> str:
    """The object's client id."""
    client_id = body.get("client_id")
    if type(client_id) is not str:
        problem = "client_id must be a string" if "client_id" in body else "client_id is missing"
        raise BadRequest(problem)
    if _CLIENT_ID.fullmatch(client_id) is None:
        raise BadRequest(_RULE)
    return client_id
