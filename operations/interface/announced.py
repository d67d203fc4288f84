"""The content of the documents: the endpoints as `$SRV.INFO` lists them, and what a schema cannot express."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from control_plane.desired import EVERYTHING, SERVICE
from control_plane.resources import User
from service.contracts import customer as contract
from service.contracts import devices
from service.contracts.stream import ADJUSTED_PREFIX, EVENT_PREFIX
from service.customer.role import Customer
from service.customer.settings import CustomerSettings
from service.devices.role import Devices
from service.devices.settings import DevicesSettings
from service.requests.errors import (
    ERRORS,
    BadRequest,
    Conflict,
    InternalError,
    NotFound,
    RequestError,
    Unavailable,
)
from service.runtime.errors import ServiceError
from service.runtime.process import Stop

_READ: Final = (BadRequest, NotFound, Unavailable, InternalError)
_ADJUSTMENT: Final = {"client_id": "678", "points": -250, "adjustment_id": "order-9913", "reason": "redeemed"}
_ADJUSTED: Final = {"client_id": "678", "adjustment_id": "order-9913", "points": -250, "balance": 6870}


@dataclass(frozen=True)
class Promise:
    """What the schemas of an endpoint leave out."""

    request: Mapping[str, Any]
    reply: Mapping[str, Any]
    """An example of each."""
    errors: tuple[type[RequestError], ...]
    notes: tuple[str, ...]


PROMISES: Final[Mapping[str, Promise]] = {
    contract.SUBJECT: Promise(
        {"client_id": "678"},
        {"balance": 7120},
        _READ,
        ("The balance may be a second behind.", "Each reply is published as an event too."),
    ),
    contract.GET_SUBJECT: Promise(
        {"client_id": "john", "consistent": True},
        {"client_id": "john", "name": "John Doe", "created_at": "2024-01-23", "balance": 0},
        _READ,
        (
            "A seeded client has no name and no date.",
            "`consistent` (default false) sees each client that was just created, and each answered adjustment.",
        ),
    ),
    contract.CREATE_SUBJECT: Promise(
        {"name": "John Doe", "created_at": "2024-01-23", "client_id": "john"},
        {"client_id": "john"},
        (BadRequest, Conflict, Unavailable, InternalError),
        (
            "`created_at` and `client_id` may be left out: the service takes the time of the request and a new id.",
            "With a `client_id` of your own it is safe to repeat: the same content gets the same reply.",
            "A `client_id` that is there with other content: `409 CONFLICT`.",
        ),
    ),
    contract.ADJUST_SUBJECT: Promise(
        _ADJUSTMENT,
        _ADJUSTED,
        ERRORS,
        (
            "The same `adjustment_id` with the same points gets the same bytes, for ever.",
            "The same `adjustment_id` with other points: `409 CONFLICT`.",
            "After a `503` or no answer, repeat it under the same id until it is answered.",
            "The balance never goes below 0: `409 INSUFFICIENT_BALANCE`.",
            "`customer.balance` may be a second behind an answered adjustment.",
        ),
    ),
    contract.STATEMENT_SUBJECT: Promise(
        {"client_id": "678", "limit": 50},
        {
            "client_id": "678",
            "adjustments": [
                {
                    "adjustment_id": "order-9913",
                    "points": -250,
                    "balance": 6870,
                    "reason": "redeemed",
                    "at": "2026-11-30T10:49:02.966Z",
                }
            ],
            "before": 12,
        },
        _READ,
        (
            "Newest first. It has each adjustment that was answered before it.",
            "`before` of a reply asks for the next page; the last page has none.",
        ),
    ),
    devices.GET_SUBJECT: Promise(
        {"device": "greenhouse"},
        {
            "device": "greenhouse",
            "state": "online",
            "since": 1796041809.5,
            "last": {"epoch": 1796041812, "temp": 21.2, "rh": 46.9, "sensor": "air", "entry_id": 101},
        },
        _READ,
        ("Where the role `devices` runs: [devices.md](devices.md).", "A device that never connected: `404 NOT_FOUND`."),
    ),
    devices.LIST_SUBJECT: Promise(
        {"state": "offline", "limit": 100},
        {"devices": [{"device": "greenhouse", "state": "offline", "since": 1796041809.5}]},
        (BadRequest, Unavailable, InternalError),
        ("In order of their ids.", "`after` of a reply asks for the next page; the last page has none."),
    ),
}
"""Subject -> promise."""


@dataclass(frozen=True)
class Event:
    name: str
    prefix: str
    """The event's subject is this prefix and the client's id."""
    schema: Mapping[str, Any]
    example: Mapping[str, Any]
    note: str


EVENTS: Final = (
    Event(
        "balanceEvent",
        EVENT_PREFIX,
        contract.RESPONSE_SCHEMA,
        {"balance": 7120},
        "A client's balance: the bytes of a reply of `customer.balance`, or the balance after an adjustment.",
    ),
    Event(
        "adjustedEvent",
        ADJUSTED_PREFIX,
        contract.ADJUST_RESPONSE_SCHEMA,
        _ADJUSTED,
        "An adjustment: the bytes of the reply of `customer.adjust`.",
    ),
)

ERROR_SCHEMA: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What is wrong, in one sentence."}},
}


class _NeverStopped:
    """Stands in for `Stop`, which handles signals: this role never runs."""

    def fail(self, error: ServiceError) -> None:
        raise error

    def finish(self) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Announced:
    """An endpoint, and the users that may call it."""

    name: str
    """Unique among the endpoints of all roles."""
    subject: str
    queue_group: str
    description: str
    request_schema: Mapping[str, Any]
    response_schema: Mapping[str, Any]
    promise: Promise
    users: tuple[str, ...]


def announced() -> Sequence[Announced]:
    """Return the endpoints of every role that answers requests, in their order in `$SRV.INFO`."""
    return asyncio.run(announcing())


async def announcing() -> Sequence[Announced]:
    """Return the same, in a running loop: a role cannot be constructed without one."""
    stop = cast("Stop", _NeverStopped())
    customer = CustomerSettings.model_validate({"ddb_table": "balances", "adjustments_table": "adjustments"})
    of_devices = DevicesSettings.model_validate({"devices_table": "readings"})
    found = []
    for endpoint in (
        *Customer(customer, stop)._service.info().endpoints,
        *Devices(of_devices, stop)._service.info().endpoints,
    ):
        told = endpoint.metadata or {}
        service, _, name = endpoint.subject.partition(".")
        found.append(
            Announced(
                name=name if service == contract.SERVICE_NAME else f"{service}{name.capitalize()}",
                subject=endpoint.subject,
                queue_group=endpoint.queue_group or "",
                description=told["description"],
                request_schema=orjson.loads(told["request_schema"]),
                response_schema=orjson.loads(told["response_schema"]),
                promise=PROMISES[endpoint.subject],
                users=tuple(user.name for user in EVERYTHING.users if _may_ask(user, endpoint.subject)),
            )
        )
    return found


def _may_ask(user: User, subject: str) -> bool:
    return user != SERVICE and subject in user.publish
