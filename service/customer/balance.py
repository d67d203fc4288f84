"""The endpoint `customer.balance`: decode, look up, reply, publish the event."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import orjson
import structlog

from service.customer import contract
from service.customer.errors import BadRequest, InternalError, NotFound, RequestError, Unavailable
from service.customer.events import Events
from service.customer.lookup import BatchLoader, Read
from service.customer.micro import Endpoint
from service.customer.request import Request
from service.dynamodb.errors import DynamoDBError, NoCredentialsError, TableUnavailableError
from service.dynamodb.table import Outcome, Row
from service.runtime.logs import Repeated

log: Final = structlog.get_logger("service.balance")
_failed: Final = Repeated(log, "look-up failed")

_CLIENT_ID: Final = re.compile(f"{contract.CLIENT_ID_CHARACTER}{{1,{contract.CLIENT_ID_MAX}}}")
_RULE: Final = (
    f"client_id must be one NATS subject token: 1 to {contract.CLIENT_ID_MAX} characters, "
    "no white space or control character, no . * >"
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


def make_row(client_id: str, balance: int) -> Row:
    """A client's row in the table."""
    return {contract.KEY_ATTRIBUTE: {"S": client_id}, contract.BALANCE_ATTRIBUTE: {"N": str(balance)}}


class Balance:
    """Answers requests with balances from `read`, and publishes each answer as an event."""

    def __init__(self, read: Read, events: Events) -> None:
        self.endpoint = Endpoint(
            name=contract.ENDPOINT_NAME,
            subject=contract.SUBJECT,
            handler=self.handle,
            description="A client's balance, by client_id.",
            request_schema=contract.REQUEST_SCHEMA,
            response_schema=contract.RESPONSE_SCHEMA,
        )
        self.lookup: BatchLoader[Request] = BatchLoader(read, self._answer)
        self._events = events

    async def handle(self, request: Request) -> None:
        """Start the look-up for a request; `_answer` replies to it, together with its batch."""
        self.lookup.load(decode(request.data), request)

    async def _answer(self, client_id: str, outcome: Outcome, requests: Sequence[Request]) -> None:
        try:
            payload = encode(self._balance(client_id, outcome))
        except RequestError as error:
            for request in requests:
                await request.refuse(error)
            return
        for request in requests:
            try:
                if await request.respond(payload):
                    await self._events.publish(client_id, payload, request.traceparent)
            except Exception as error:  # the other requests of the batch are not to wait for ever
                _failed.error(type(error).__name__, client_id=client_id, exc_info=error)

    def _balance(self, client_id: str, outcome: Outcome) -> int:
        """The balance that a look-up found. Raises the `RequestError` that answers for any other outcome."""
        if type(outcome) is dict:
            try:
                return int(outcome[contract.BALANCE_ATTRIBUTE]["N"])
            except Exception as error:  # a row may hold anything
                _failed.error("row", client_id=client_id, error=f"the row has no integer {contract.BALANCE_ATTRIBUTE}")
                raise InternalError("internal error") from error
        if outcome is None:
            raise NotFound("no such client")
        if isinstance(outcome, TableUnavailableError):
            raise Unavailable(f"{outcome}; try again")
        if isinstance(outcome, DynamoDBError | NoCredentialsError):
            code = outcome.code if isinstance(outcome, DynamoDBError) else type(outcome).__name__
            _failed.error(code, client_id=client_id, error=str(outcome) or code)
        else:
            _failed.error(type(outcome).__name__, client_id=client_id, exc_info=outcome)
        raise InternalError("internal error")
