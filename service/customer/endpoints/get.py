"""The endpoint `customer.get`: decode, look up together with the balances, reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from service.contracts import customer as contract
from service.customer.client_id import client_id_of
from service.customer.clients import Clients
from service.customer.store.rows import balance_of, row_of, text_of
from service.dynamodb.table import Outcome
from service.requests.burst import Burst
from service.requests.decode import decode_object
from service.requests.errors import BadRequest
from service.requests.micro import Endpoint


class Get:
    """Answers requests with a client's data; a name or date that the row lacks is left out."""

    def __init__(self, clients: Clients, attribute: str = contract.BALANCE_ATTRIBUTE) -> None:
        """`attribute`: the table's attribute with the balance."""
        self.endpoint = Endpoint(
            name=contract.GET_NAME,
            subject=contract.GET_SUBJECT,
            handler=self.handle,
            description="A client, by client_id. With consistent: true, finds one just created.",
            request_schema=contract.GET_REQUEST_SCHEMA,
            response_schema=contract.GET_RESPONSE_SCHEMA,
        )
        self._clients = clients
        self._attribute = attribute

    def handle(self, burst: Burst, payloads: Sequence[str]) -> None:
        """Start the look-up for requests; each is answered together with its batch."""
        asked = burst.each(_decode, payloads)
        certain = [number for number, (_, consistent) in enumerate(asked) if consistent]
        if certain:
            client_ids = [asked[number][0] for number in certain]
            self._clients.load(burst.take(certain), client_ids, self._answer, consistent=True)
        self._clients.load(burst, [client_id for client_id, consistent in asked if not consistent], self._answer)

    def _answer(self, burst: Burst, client_ids: Sequence[str], outcomes: Mapping[str, Outcome]) -> None:
        def answer(client_id: str) -> str:
            return encode(client_id, outcomes[client_id], self._attribute)

        burst.respond(burst.each(answer, client_ids))


def _decode(payload: str) -> tuple[str, bool]:
    """Return the client id, and whether the read must be consistent."""
    body = decode_object(payload)
    consistent = body.get("consistent", False)
    if type(consistent) is not bool:
        raise BadRequest("consistent must be true or false")
    return client_id_of(body), consistent


def encode(client_id: str, outcome: Outcome, attribute: str) -> str:
    """Return a reply's text. If no client was found, raise the `RequestError` to reply with."""
    row = row_of(client_id, outcome)
    texts = {name: text_of(row, name) for name in (contract.NAME_ATTRIBUTE, contract.CREATED_AT_ATTRIBUTE)}
    known = {name: text for name, text in texts.items() if text is not None}
    return orjson.dumps({"client_id": client_id, **known, "balance": balance_of(client_id, row, attribute)}).decode()
