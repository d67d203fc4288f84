"""A table of the service, open for as long as a test needs it; and rows as they are in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from service.contracts.customer import KEY_ATTRIBUTE
from service.customer.store.rows import make_row
from service.dynamodb.table import Outcome, Row, Table


@asynccontextmanager
async def open_table(name: str) -> AsyncIterator[Table]:
    table = Table(name, KEY_ATTRIBUTE, "DDB_TABLE")
    table.open()
    try:
        yield table
    finally:
        table.close()


async def read(table: Table, keys: Sequence[str]) -> dict[str, Outcome]:
    """Return every key's outcome, once all have arrived."""
    found: dict[str, Outcome] = {}

    def give(part: Mapping[str, Outcome]) -> None:
        assert not found.keys() & part.keys(), "each key once"
        found.update(part)

    await table.read(keys, give)
    return found


def as_rows(balances: Mapping[str, int]) -> dict[str, Row]:
    return {client_id: make_row(client_id, balance) for client_id, balance in balances.items()}
