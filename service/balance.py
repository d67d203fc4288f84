"""The endpoint: decode, look up, reply, hand to events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import orjson
import structlog

from service.errors import BadRequest, InternalError, NotFound, RequestError
from service.events import Events
from service.lookup import Lookup, Outcome, Read
from service.micro import Request

log: Final = structlog.get_logger("service.balance")

_CLIENT_ID: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f.*>]{1,128}")
_RULE: Final = (
    "client_id must be one NATS subject token: 1 to 128 characters, no white space or control character, no . * >"
)


def decode(payload: bytes) -> str:
    """The client id a request asks for.

    Raises `BadRequest` that says what is wrong with the payload.
    """
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise BadRequest("the request is not JSON") from None
    if type(body) is not dict:
        raise BadRequest("the request is not a JSON object")
    client_id = body.get("client_id")
    if type(client_id) is not str:
        problem = "client_id must be a string" if "client_id" in body else "client_id is missing"
        raise BadRequest(problem)
    if _CLIENT_ID.fullmatch(client_id) is None:
        raise BadRequest(_RULE)
    return client_id


def encode(balance: int) -> bytes:
    """A reply's bytes, which are the event's too."""
    return b'{"balance":%d}' % balance


class Balance:
    """Answers requests with balances from `read`, and publishes each answer as an event."""

    def __init__(self, read: Read, events: Events) -> None:
        self._events = events
        self._logged: Exception | int | None = None
        self.lookup: Lookup[Request] = Lookup(read, self._answer)

    async def handle(self, request: Request) -> None:
        """Start the look-up for a request; `_answer` replies to it, together with its batch."""
        self.lookup.find(decode(request.data), request)

    async def _answer(self, client_id: str, outcome: Outcome, requests: Sequence[Request]) -> None:
        if type(outcome) is int:
            payload = encode(outcome)
            for request in requests:
                if await request.respond(payload):
                    await self._events.publish(client_id, payload, request.traceparent)
            return
        error = self._refusal(client_id, outcome)
        for request in requests:
            await request.refuse(error)

    def _refusal(self, client_id: str, outcome: Exception | int | None) -> RequestError:
        if outcome is None:
            return NotFound("no such client")
        if isinstance(outcome, RequestError):
            return outcome
        if outcome is not self._logged:  # a batch's requests may share one failure
            self._logged = outcome
            log.error(
                "look-up failed", client_id=client_id, exc_info=outcome if isinstance(outcome, Exception) else None
            )
        return InternalError("internal error")
