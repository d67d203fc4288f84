"""The endpoint `customer.statement`: a client's adjustments, newest first, including all that were answered before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from service.contracts import customer as contract
from service.customer.client_id import client_id_of
from service.customer.ledger.decide import Entry
from service.customer.ledger.tables import Ledger
from service.customer.store.rows import refusal, row_of
from service.dynamodb.errors import classify, is_retryable
from service.dynamodb.table import DEADLINE_S, MAX_CALLS, Table, backoff_s
from service.requests.answering import Answering
from service.requests.decode import decode_object, integer_of
from service.requests.errors import BadRequest
from service.requests.micro import Endpoint


@dataclass(frozen=True, slots=True)
class Asked:
    client_id: str
    limit: int
    before: int | None


def decode(payload: str) -> Asked:
    """Return the page that a request asks for. Raise `BadRequest` if it is invalid."""
    body = decode_object(payload)
    limit = integer_of(body.get("limit", contract.PAGE_DEFAULT))
    if limit is None or not 1 <= limit <= contract.PAGE_MAX:
        raise BadRequest(f"limit must be an integer from 1 to {contract.PAGE_MAX}")
    before = integer_of(body["before"]) if "before" in body else None
    if "before" in body and (before is None or not 1 <= before <= contract.CURSOR_MAX):
        raise BadRequest("before must be a cursor: the `before` of the page that came last")
    return Asked(client_id_of(body), limit, before)


def encode(asked: Asked, entries: Sequence[Entry]) -> str:
    """Return a reply's text. One entry more than requested means that another page follows."""
    page = entries[: asked.limit]
    more = {"before": page[-1].sequence} if len(entries) > len(page) else {}
    return orjson.dumps(
        {"client_id": asked.client_id, "adjustments": [_shown(entry) for entry in page], **more}
    ).decode()


def _shown(entry: Entry) -> dict[str, Any]:
    reason = {} if entry.reason is None else {"reason": entry.reason}
    told = {"adjustment_id": entry.adjustment_id, "points": entry.points, "balance": entry.balance}
    return {**told, **reason, "at": entry.at}


class Statement:
    """Answers requests with pages of the ledger."""

    def __init__(self, ledger: Ledger, table: Table) -> None:
        self.endpoint = Endpoint(
            name=contract.STATEMENT_NAME,
            subject=contract.STATEMENT_SUBJECT,
            handler=Answering(decode, self._answer),
            description="A client's adjustments, newest first; `before` of a page asks for the next one.",
            request_schema=contract.STATEMENT_REQUEST_SCHEMA,
            response_schema=contract.STATEMENT_RESPONSE_SCHEMA,
        )
        self._ledger = ledger
        self._table = table

    async def _answer(self, asked: Asked) -> str:
        try:
            entries = await self._read(asked)
        except Exception as error:
            raise refusal(asked.client_id, classify(error)) from error
        if not entries:
            row_of(asked.client_id, await self._table.get(asked.client_id, consistent=True))
        return encode(asked, entries)

    async def _read(self, asked: Asked) -> list[Entry]:
        """Read the page, and the first entry of the next one. Raise the last call's error."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + DEADLINE_S
        for attempt in range(1, MAX_CALLS):
            try:
                return await self._ledger.page(asked.client_id, asked.before, asked.limit + 1, deadline)
            except Exception as error:
                if not is_retryable(error) or clock() >= deadline:
                    raise
            await asyncio.sleep(backoff_s(attempt))
        return await self._ledger.page(asked.client_id, asked.before, asked.limit + 1, deadline)
