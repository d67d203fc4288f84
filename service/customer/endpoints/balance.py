"""The endpoint `customer.balance`: decode, look up, reply, publish the event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.contracts import customer as contract
from service.customer.client_id import decode_client_id, usual_client_ids
from service.customer.clients import Clients
from service.customer.events.events import Events
from service.customer.store.rows import balance_of, row_of
from service.dynamodb.table import Outcome
from service.requests.burst import Burst
from service.requests.micro import Endpoint


class Balance:
    """Answers requests with balances, and publishes each answer as an event."""

    def __init__(self, clients: Clients, events: Events, attribute: str = contract.BALANCE_ATTRIBUTE) -> None:
        """`attribute`: the table's attribute with the balance."""
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
        self._attribute = attribute

    def handle(self, burst: Burst, payloads: Sequence[str]) -> None:
        """Start the look-up for requests; each is answered together with its batch."""
        client_ids = usual_client_ids(payloads)
        if client_ids is None:
            client_ids = burst.each(decode_client_id, payloads)
        self._clients.load(burst, client_ids, self._answer)

    def _answer(self, burst: Burst, client_ids: Sequence[str], outcomes: Mapping[str, Outcome]) -> None:
        attribute = self._attribute
        try:
            payloads = [f'{{"balance":{int(outcomes[key][attribute]["N"])}}}' for key in client_ids]  # type: ignore[index]
        except Exception:  # a row may hold anything, or be missing
            found = burst.each(lambda client_id: (client_id, _balance(client_id, outcomes, attribute)), client_ids)
            client_ids, payloads = [client_id for client_id, _ in found], [encode(balance) for _, balance in found]
        if burst.respond(payloads):
            self._events.publish(client_ids, payloads, burst.context)


def encode(balance: int) -> str:
    """Return the text of the reply and of the event."""
    return f'{{"balance":{balance}}}'


def _balance(client_id: str, outcomes: Mapping[str, Outcome], attribute: str) -> int:
    """Return a client's balance. If no client was found, raise the `RequestError` to reply with."""
    return balance_of(client_id, row_of(client_id, outcomes[client_id]), attribute)
