"""The endpoint `devices.list`: devices and their presence, by the page, in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from service.contracts import devices as contract
from service.contracts import devices_schemas as schemas
from service.devices.endpoints.records import Presence, Record, device_of, shown
from service.requests.answering import Answering
from service.requests.decode import decode_object, integer_of
from service.requests.errors import BadRequest
from service.requests.micro import Endpoint


@dataclass(frozen=True, slots=True)
class Asked:
    state: str
    """'' for any."""
    after: str
    limit: int


def decode(payload: str) -> Asked:
    """Return the page that a request asks for. Raises `BadRequest`."""
    body = decode_object(payload)
    state = body.get("state", "")
    if "state" in body and state not in schemas.STATES:
        raise BadRequest(f"state must be one of {', '.join(schemas.STATES)}")
    limit = integer_of(body.get("limit", schemas.PAGE_DEFAULT))
    if limit is None or not 1 <= limit <= schemas.PAGE_MAX:
        raise BadRequest(f"limit must be an integer from 1 to {schemas.PAGE_MAX}")
    return Asked(state, device_of(body, "after") if "after" in body else "", limit)


def encode(records: Sequence[Record], limit: int) -> str:
    """Return a reply's text. One record more than asked for means that another page follows."""
    page = records[:limit]
    more = {"after": page[-1].device} if len(records) > len(page) else {}
    return orjson.dumps({"devices": [shown(record) for record in page], **more}).decode()


class List:
    """Answers requests with pages of the devices that have a presence."""

    def __init__(self, presence: Presence) -> None:
        self.endpoint = Endpoint(
            name=contract.LIST_NAME,
            subject=contract.LIST_SUBJECT,
            handler=Answering(decode, self._answer),
            description="Devices in the order of their ids; `after` of a page asks for the next one.",
            request_schema=schemas.LIST_REQUEST_SCHEMA,
            response_schema=schemas.LIST_RESPONSE_SCHEMA,
        )
        self._presence = presence

    async def _answer(self, asked: Asked) -> str:
        return encode(await self._presence.list(asked.state, asked.after, asked.limit + 1), asked.limit)
