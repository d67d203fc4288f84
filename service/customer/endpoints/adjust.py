"""The endpoint `customer.adjust`: points earned or redeemed, once for each `adjustment_id`.

Every reply is built from the ledger's row by the same function, so a repeated request gets the same bytes
(docs/adr/0016-adjustments.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import orjson

from service.contracts import customer as contract
from service.contracts.stream import ADJUSTED_PREFIX, EVENT_PREFIX
from service.customer.client_id import client_id_of
from service.customer.endpoints.balance import encode as encode_balance
from service.customer.events.events import Events
from service.customer.ledger.decide import Adjustment, Entry
from service.customer.ledger.tables import Ledger
from service.customer.ledger.tills import Tills, Waiting
from service.dynamodb.table import Table
from service.requests.burst import Burst
from service.requests.decode import decode_object, integer_of
from service.requests.errors import BadRequest
from service.requests.micro import Endpoint

ADJUSTED_BYTES: Final = 2048
"""Maximum size in bytes of the headers and payload of `customer.adjusted.<client_id>`."""


def decode(payload: str) -> Adjustment:
    """Return the adjustment that a request asks for. Raise `BadRequest` if it is invalid."""
    body = decode_object(payload)
    return Adjustment(client_id_of(body), _adjustment_id(body), _points(body), _reason(body))


def _adjustment_id(body: dict[str, Any]) -> str:
    given = body.get("adjustment_id")
    if type(given) is not str:
        raise BadRequest("adjustment_id must be a string" if "adjustment_id" in body else "adjustment_id is missing")
    if not 1 <= len(given) <= contract.ADJUSTMENT_ID_MAX:
        raise BadRequest(f"adjustment_id must have 1 to {contract.ADJUSTMENT_ID_MAX} characters")
    return given


def _points(body: dict[str, Any]) -> int:
    if (points := integer_of(body.get("points"))) and abs(points) <= contract.POINTS_MAX:
        return points
    raise BadRequest(
        f"points must be an integer from -{contract.POINTS_MAX} to {contract.POINTS_MAX}, and not 0"
        if "points" in body
        else "points is missing"
    )


def _reason(body: dict[str, Any]) -> str | None:
    reason = body.get("reason")
    if reason is None or (type(reason) is str and len(reason) <= contract.REASON_MAX):
        return reason
    raise BadRequest(f"reason must be a string of up to {contract.REASON_MAX} characters")


def encode(client_id: str, entry: Entry) -> str:
    """Return the text of the reply and of the event. It must never change for an existing entry."""
    return (
        f'{{"client_id":{_json(client_id)},"adjustment_id":{_json(entry.adjustment_id)}'
        f',"points":{entry.points},"balance":{entry.balance}}}'
    )


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


class Adjust:
    """Answers requests with the entries of their adjustments, and publishes each as two events."""

    def __init__(self, ledger: Ledger, table: Table, events: Events) -> None:
        self.endpoint = Endpoint(
            name=contract.ADJUST_NAME,
            subject=contract.ADJUST_SUBJECT,
            handler=self.handle,
            description="Points earned (above 0) or redeemed (below 0). Safe to repeat with the same adjustment_id.",
            request_schema=contract.ADJUST_REQUEST_SCHEMA,
            response_schema=contract.ADJUST_RESPONSE_SCHEMA,
        )
        self.ledger = ledger
        self.tills = Tills(ledger, self._answer, partial(table.read, consistent=True))
        self.forgotten_s = 0.0
        """The stream's duplicate window, in seconds: after it, the stream would store an adjustment's event again."""
        self._events = events

    def handle(self, burst: Burst, payloads: Sequence[str]) -> None:
        """Put each request into its client's till, which answers it."""
        asked = burst.each(decode, payloads)
        self.tills.add(zip(asked, burst.singles(), strict=True))

    def _answer(self, waiting: Waiting, entry: Entry, is_new: bool, is_last: bool) -> None:
        client_id = waiting.adjustment.client_id
        payload = encode(client_id, entry)
        waiting.request.respond([payload])
        # A repeated request publishes again, in case the task that wrote the entry died before publishing: only within
        # the window, or the stream would store a second event; within half of it, because clocks differ. It publishes
        # a balance only if it is the latest: an older one might come after a newer one.
        if is_new or time.time() - datetime.fromisoformat(entry.at).timestamp() < self.forgotten_s / 2:
            told = slice(None) if is_new or is_last else slice(1, None)
            self._events.publish_once(
                [f"{EVENT_PREFIX}{client_id}", f"{ADJUSTED_PREFIX}{client_id}"][told],
                [encode_balance(entry.balance), payload][told],
                event_ids(client_id, entry.adjustment_id)[told],
                waiting.request.context,
            )


def event_ids(client_id: str, adjustment_id: str) -> list[str]:
    """Return the `Nats-Msg-Id` of an adjustment's two events: the same ones in every task."""
    digest = blake2b(f"{client_id}\0{adjustment_id}".encode(), digest_size=16).hexdigest()
    return [f"{digest}b", f"{digest}a"]
