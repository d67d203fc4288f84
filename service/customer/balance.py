"""The endpoint `customer.balance`: decode, look up, reply, publish the event."""

from __future__ import annotations

from service.customer import contract
from service.customer.clients import Answer, Clients
from service.customer.decode import decode_client_id
from service.customer.events import Events
from service.customer.micro import Endpoint
from service.customer.request import Request
from service.customer.rows import balance_of, row_of
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
        self._answer = Answer(_encode, self._publish)

    async def handle(self, request: Request) -> None:
        """Start the look-up for a request, which is answered together with its batch."""
        self._clients.load(decode_client_id(request.data), request, self._answer)

    def _publish(self, client_id: str, payload: bytes, request: Request) -> None:
        self._events.publish(client_id, payload, request.context)


def _encode(client_id: str, outcome: Outcome) -> bytes:
    """Raises the `RequestError` that answers where no client was found."""
    return encode(balance_of(client_id, row_of(client_id, outcome)))
