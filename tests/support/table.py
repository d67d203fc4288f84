"""A table of the service, open for as long as a test needs it; and rows as they are in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from service.customer.balance import make_row
from service.customer.contract import KEY_ATTRIBUTE
from service.dynamodb.table import Row, Table


@asynccontextmanager
async def open_table(name: str) -> AsyncIterator[Table]:
    table = Table(name, KEY_ATTRIBUTE)
    table.open()
    try:
        yield table
    finally:
        table.close()


def as_rows(balances: Mapping[str, int]) -> dict[str, Row]:
    return {client_id: make_row(client_id, balance) for client_id, balance in balances.items()}
