"""The endpoint `customer.get`: decode, look up together with the balances, reply."""

from __future__ import annotations

import orjson

from service.customer import contract
from service.customer.clients import Answer, Clients
from service.customer.decode import client_id_of, decode_object
from service.customer.errors import BadRequest
from service.customer.micro import Endpoint
from service.customer.request import Request
from service.customer.rows import balance_of, row_of, text_of
from service.dynamodb.table import Outcome


class Get:
    """Answers requests with what is known of a client; a name or date that the row lacks is left out."""

    def __init__(self, clients: Clients) -> None:
        self.endpoint = Endpoint(
            name=contract.GET_NAME,
            subject=contract.GET_SUBJECT,
            handler=self.handle,
            description="A client, by client_id. With consistent: true, one just created is found for certain.",
            request_schema=contract.GET_REQUEST_SCHEMA,
            response_schema=contract.GET_RESPONSE_SCHEMA,
        )
        self._clients = clients
        self._answer = Answer(encode)

    async def handle(self, request: Request) -> None:
        """Start the look-up for a request, which is answered together with its batch."""
        body = decode_object(request.data)
        consistent = body.get("consistent", False)
        if type(consistent) is not bool:
            raise BadRequest("consistent must be true or false")
        self._clients.load(client_id_of(body), request, self._answer, consistent=consistent)


def encode(client_id: str, outcome: Outcome) -> bytes:
    """A reply's bytes. Raises the `RequestError` that answers where no client was found."""
    row = row_of(client_id, outcome)
    texts = {name: text_of(row, name) for name in (contract.NAME_ATTRIBUTE, contract.CREATED_AT_ATTRIBUTE)}
    known = {name: text for name, text in texts.items() if text is not None}
    return orjson.dumps({"client_id": client_id, **known, "balance": balance_of(client_id, row)})
