"""The endpoints that a load requests: the subject, the request, and the check of the reply."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import orjson

from benchmark.errors import BenchmarkError
from service.contracts import customer as contract

BALANCE: Final = contract.ENDPOINT_NAME
GET: Final = contract.GET_NAME
CREATE: Final = contract.CREATE_NAME
ADJUST: Final = contract.ADJUST_NAME
STATEMENT: Final = contract.STATEMENT_NAME
WRONG_SHAPE: Final = "wrong shape"
WRONG_BALANCE: Final = "wrong balance"
_DRAWN_AT_ONCE: Final = 10_000

Mix = Mapping[str, float]
"""Endpoint name -> weight."""


@dataclass(frozen=True)
class Endpoint:
    subject: str
    request: Callable[[str, str], bytes]
    """Return the payload for a client id, and for an id that no other request has."""
    problem: Callable[[bytes, str, int | None], str | None]
    """Return what is wrong with a reply to a client id, or None. The last argument is the balance, if known."""


def draws(mix: Mix, seed: int) -> Iterator[str]:
    """Yield endpoint names without end, at random by their weights."""
    if len(mix) == 1:
        yield from repeat(next(iter(mix)))
    draw = random.Random(seed)
    while True:
        yield from draw.choices(list(mix), weights=list(mix.values()), k=_DRAWN_AT_ONCE)


def parse_mix(text: str) -> dict[str, float]:
    """Parse `balance=80,get=15,create=5`, or a single name.

    Raises `BenchmarkError` for anything else.
    """
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        try:
            share = float(weight or "1")
        except ValueError:
            share = -1.0
        if name not in ENDPOINTS or name in mix or not 0 <= share < float("inf"):
            known = ", ".join(ENDPOINTS)
            raise BenchmarkError(f"--mix {text!r}: write NAME=WEIGHT, for example balance=80,get=20; names: {known}")
        if share:
            mix[name] = share
    if not mix:
        raise BenchmarkError(f"--mix {text!r} asks for nothing; give a weight above 0")
    return mix


def mix_text(mix: Mix) -> str:
    return ",".join(f"{name}={weight:g}" for name, weight in mix.items())


def _asking(client_id: str, _: str) -> bytes:
    return orjson.dumps({"client_id": client_id})


def _creating(client_id: str, _: str) -> bytes:
    return orjson.dumps({"client_id": client_id, "name": "Load", "created_at": "2024-01-23"})


def _adjusting(client_id: str, adjustment_id: str) -> bytes:
    """Earn a point: unlike redeeming, that is never refused."""
    return orjson.dumps({"client_id": client_id, "adjustment_id": adjustment_id, "points": 1})


def _in_balance(reply: bytes, _: str, expected: int | None) -> str | None:
    body = _object(reply)
    return _compared(body, expected) if body is not None and len(body) == 1 else WRONG_SHAPE


def _in_get(reply: bytes, client_id: str, expected: int | None) -> str | None:
    body = _object(reply)
    return _compared(body, expected) if body is not None and body.get("client_id") == client_id else WRONG_SHAPE


def _in_create(reply: bytes, client_id: str, _: int | None) -> str | None:
    return None if _object(reply) == {"client_id": client_id} else WRONG_SHAPE


def _in_adjust(reply: bytes, client_id: str, _: int | None) -> str | None:
    body = _object(reply) or {}
    is_right = (body.get("client_id"), body.get("points")) == (client_id, 1) and type(body.get("balance")) is int
    return None if is_right else WRONG_SHAPE


def _in_statement(reply: bytes, client_id: str, _: int | None) -> str | None:
    body = _object(reply) or {}
    return None if body.get("client_id") == client_id and type(body.get("adjustments")) is list else WRONG_SHAPE


def _compared(body: Mapping[str, Any], expected: int | None) -> str | None:
    balance = body.get("balance")
    if type(balance) is not int:
        return WRONG_SHAPE
    return None if expected is None or balance == expected else WRONG_BALANCE


def _object(reply: bytes) -> dict[str, Any] | None:
    try:
        body = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return None
    return body if type(body) is dict else None


ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    BALANCE: Endpoint(contract.SUBJECT, _asking, _in_balance),
    GET: Endpoint(contract.GET_SUBJECT, _asking, _in_get),
    CREATE: Endpoint(contract.CREATE_SUBJECT, _creating, _in_create),
    ADJUST: Endpoint(contract.ADJUST_SUBJECT, _adjusting, _in_adjust),
    STATEMENT: Endpoint(contract.STATEMENT_SUBJECT, _asking, _in_statement),
}
