"""Extract client ids from requests. An invalid request raises `BadRequest`, which says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from service.contracts import customer as contract
from service.requests.decode import decode_object
from service.requests.errors import BadRequest

_CLIENT_ID: Final = re.compile(f"{contract.CLIENT_ID_CHARACTER}{{1,{contract.CLIENT_ID_MAX}}}")
_usual: Final = re.compile(r'^\{"client_id": ?"([0-9A-Za-z_-]{1,128})"\}$', re.MULTILINE).findall
_RULE: Final = (
    f"client_id must be one NATS subject token: 1 to {contract.CLIENT_ID_MAX} characters, "
    "no white space or control character, no . * >"
)


def decode_client_id(payload: str) -> str:
    """Return the client id that a request asks for. Raise `BadRequest` if it is invalid."""
    return client_id_of(decode_object(payload))


def usual_client_ids(payloads: Sequence[str]) -> list[str] | None:
    """Return the client ids if all requests have the most common form, else None.

    One search over all is a tenth of the work. Each payload must be one line; otherwise an id could shift to another
    request.
    """
    lines = "\n".join(payloads)
    client_ids: list[str] = _usual(lines)
    return client_ids if len(client_ids) == len(payloads) == lines.count("\n") + 1 else None


def client_id_of(body: dict[str, Any]) -> str:
    """Return the object's client id. Raise `BadRequest` if it is missing or invalid."""
    client_id = body.get("client_id")
    if type(client_id) is not str:
        problem = "client_id must be a string" if "client_id" in body else "client_id is missing"
        raise BadRequest(problem)
    if _CLIENT_ID.fullmatch(client_id) is None:
        raise BadRequest(_RULE)
    return client_id
