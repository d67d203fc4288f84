"""Convert a row of the table to a line that `operations.load` reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

import orjson

from operations.load.lines import BALANCE, CLIENT_ID, COLUMNS, BadLine, Client, client_of
from service.contracts import customer as contract
from service.dynamodb.table import Row

Format = Literal["csv", "jsonl"]
TEXTS: Final = (contract.NAME_ATTRIBUTE, contract.CREATED_AT_ATTRIBUTE)

_NULL: Final = {"NULL": True}


def client_in(row: Row, attributes: contract.Attributes) -> Client:
    """Return a row's client. Raises `BadLine` for a row that `operations.load` would refuse."""
    told: dict[str, Any] = {CLIENT_ID: _value(row, attributes.key, "S"), BALANCE: _value(row, attributes.balance, "N")}
    for name in TEXTS:
        if row.get(name, _NULL) != _NULL:
            told[name] = _value(row, name, "S")
            if told[name] is None:
                raise BadLine(name, "is not a string")
    try:
        balance = int(told[BALANCE])
    except (TypeError, ValueError):
        balance = None
    return client_of(told, balance)


def _value(row: Row, attribute: str, kind: str) -> Any:
    value = row.get(attribute)
    return value.get(kind) if isinstance(value, dict) else None


@dataclass
class Lines:
    """Writes rows to a text file; reports those that cannot be loaded, and leaves them out."""

    to: TextIO
    format: Format
    attributes: contract.Attributes
    tell: Callable[[str, str, str], None]
    """Report a row that is left out: the client's id, the column, and what is wrong with it."""
    rows: int = 0
    points: int = 0
    odd: int = 0

    def __post_init__(self) -> None:
        if self.format == "csv":
            self.to.write(f"{','.join(COLUMNS)}\n")

    def take(self, rows: Sequence[Row]) -> None:
        """Write rows, all at once."""
        clients = list[Client]()
        for row in rows:
            try:
                clients.append(client_in(row, self.attributes))
            except BadLine as error:
                self.odd += 1
                self.tell(str(_value(row, self.attributes.key, "S")), error.column, error.reason)
        self.rows += len(clients)
        self.points += sum(client.balance for client in clients)
        self.to.write(_csv(clients) if self.format == "csv" else _jsonl(clients))


def _csv(clients: Sequence[Client]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(clients)  # None becomes an empty field
    return text.getvalue()


def _jsonl(clients: Sequence[Client]) -> str:
    lines = (orjson.dumps({name: value for name, value in client._asdict().items() if value is not None})
             for client in clients)  # fmt: skip
    return "".join(f"{line.decode()}\n" for line in lines)
