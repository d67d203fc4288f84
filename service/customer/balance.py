"""The endpoint `customer.balance`: decode, look up, reply, publish the event."""

from __future__ import annotations

from collections.abc import Sequence

from service.customer import contract
from service.customer.clients import Clients
from service.customer.decode import decode_client_id
from service.customer.errors import RequestError
from service.customer.events import Events
from service.customer.micro import Endpoint
from service.customer.request import Request
from service.customer.rows import balance_of, failed, row_of
from service.dynamodb.table import Outcome


def encode(balance: int) -> bytes:
    """A reply's bytes, which are the event's too."""
    return b'{"balance":%d}' % balance


class Balance:
    """Answers requests with balances, and publishes each answer as an event."""

    def __init__(self, clients: Clients, events: Events) -> None:
        self.endpoint = Endpoint(
            name=contract.ENDPOINT_NAME,
            subject=contract.SUBJECT,
            handler=self.handle,
            description="A client's balance, by client_id.",
            request_schema=contract.REQUEST_SCHEMA,
            response_schema=contract.RESPONSE_SCHEMA,
        )
        self._clients = clients
        self._events = events

    async def handle(self, request: Request) -> None:
        """Start the look-up for a request; `_answer` replies to it, together with its batch."""
        self._clients.load(decode_client_id(request.data), request, self._answer)

    async def _answer(self, client_id: str, outcome: Outcome, requests: Sequence[Request]) -> None:
        try:
            payload = encode(balance_of(client_id, row_of(client_id, outcome)))
        except RequestError as error:
            for request in requests:
                await request.refuse(error)
            return
        for request in requests:
            try:
                if await request.respond(payload):
                    self._events.publish(client_id, payload, request.context)
            except Exception as error:  # the other requests of the batch are not to wait for ever
                failed.error(type(error).__name__, client_id=client_id, exc_info=error)
