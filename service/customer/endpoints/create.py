"""The endpoint `customer.create`: a new client, with a balance of 0. Never overwrites; safe to repeat.

The reply confirms that the client is written. A repeated `client_id` with the same content gets the same reply; with
other content, a conflict. A write whose response was lost is retried, and finds its own row.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import orjson

from service.contracts import customer as contract
from service.customer.client_id import client_id_of
from service.customer.store.rows import make_row, refusal, row_of, text_of
from service.dynamodb.errors import TableUnavailableError
from service.dynamodb.table import DEADLINE_S, Row, Table
from service.requests.answering import Answering
from service.requests.decode import decode_object
from service.requests.errors import BadRequest, Conflict, RequestError
from service.requests.micro import Endpoint

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DATE_TIME: Final = re.compile(contract.DATE_TIME_PATTERN)
_NAME: Final = re.compile(contract.NAME_PATTERN)
_LEAP: Final = ":59:60"


@dataclass(frozen=True)
class NewClient:
    client_id: str
    name: str
    created_at: str | None
    """None: not given."""


def decode(payload: str) -> NewClient:
    """Return the client that a request asks for, with a new id if it gives none.

    Raise `BadRequest`, which says what is wrong with the payload.
    """
    body = decode_object(payload)
    client_id = client_id_of(body) if "client_id" in body else uuid.uuid4().hex
    return NewClient(client_id, name_of(body), created_at_of(body))


def name_of(body: dict[str, Any]) -> str:
    """Return the name, without the white space around it. Raise `BadRequest` if it is invalid."""
    name = body.get("name")
    if type(name) is not str:
        raise BadRequest("name must be a string" if "name" in body else "name is missing")
    if found := _NAME.fullmatch(name):
        return found[1]
    rule = f"1 to {contract.NAME_MAX} characters, white space around it not counted, and no control character"
    raise BadRequest(f"name must have {rule}")


def created_at_of(body: dict[str, Any]) -> str | None:
    """Return a date unchanged, and a date-time in UTC, which is assumed if it has no offset.

    Raise `BadRequest` if it is neither.
    """
    given = body.get("created_at")
    if given is None:
        return None
    try:
        if type(given) is str and _DATE.fullmatch(given):
            return date.fromisoformat(given).isoformat()
        if type(given) is str and _DATE_TIME.fullmatch(given):
            return _written(_moment(given.upper()))
    except (ValueError, OverflowError):
        pass
    raise BadRequest("created_at must be an ISO date or date-time, such as 2024-01-23 or 2024-01-23T10:00:00Z")


def _moment(given: str) -> datetime:
    """Parse a date-time. A leap second (the last of a month in UTC) becomes the second after it, as POSIX counts.

    Raise `ValueError` if it is invalid.
    """
    is_leap = _LEAP in given
    moment = datetime.fromisoformat(given.replace(_LEAP, ":59:59") if is_leap else given)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not is_leap:
        return moment
    after = moment.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
    if (after.day, after.hour, after.minute) != (1, 0, 0):
        raise ValueError("no leap second")
    return after


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


class Create:
    """Writes new clients."""

    def __init__(self, table: Table, attributes: contract.Attributes = contract.ATTRIBUTES) -> None:
        self.endpoint = Endpoint(
            name=contract.CREATE_NAME,
            subject=contract.CREATE_SUBJECT,
            handler=Answering(decode, self._answer),
            description="A new client with a balance of 0. With a client_id of the requester's it is safe to repeat.",
            request_schema=contract.CREATE_REQUEST_SCHEMA,
            response_schema=contract.CREATE_RESPONSE_SCHEMA,
        )
        self._table = table
        self._attributes = attributes

    async def _answer(self, client: NewClient) -> str:
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._write(client)
        except RequestError:
            raise
        except Exception as error:
            raise refusal(client.client_id, error) from error
        return orjson.dumps({"client_id": client.client_id}).decode()

    async def _write(self, client: NewClient) -> None:
        """Return when the client exists as requested. Raise `Conflict` if its id has other content."""
        texts = {
            contract.NAME_ATTRIBUTE: client.name,
            contract.CREATED_AT_ATTRIBUTE: client.created_at or _written(datetime.now(UTC)),
        }
        if await self._table.insert_or_retry(make_row(client.client_id, 0, texts, self._attributes)):
            return
        outcome = await self._table.get(client.client_id, consistent=True)
        if outcome is None:
            raise TableUnavailableError("the client was deleted meanwhile")
        if not _is_same(client, row_of(client.client_id, outcome)):
            raise Conflict("a client of that client_id is there, with other content")


def _is_same(client: NewClient, row: Row) -> bool:
    """Return whether a row has the requested content. A date that was not given matches any."""
    created_at = text_of(row, contract.CREATED_AT_ATTRIBUTE)
    return text_of(row, contract.NAME_ATTRIBUTE) == client.name and client.created_at in {None, created_at}
