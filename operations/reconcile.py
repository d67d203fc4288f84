"""`python -m operations.reconcile`: check that each balance is the result of its client's adjustments.

The balances are read first, then the adjustments. A client's row says how many adjustments it counts; their rows were
written together with it, so all of them are found, and later ones are ignored. If a client has later ones, its row is
read again at the end, and must count them by then. So the check is exact even while tasks adjust balances.

For each client, the rows 1 to n must follow from each other, and the last one's balance must be the client's. The rows
may come in any order and are not kept: each row adds a hash of its own number and balance, and subtracts the hash of
the row before it. For a chain without a gap, only the hashes of its two ends remain.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer

from operations.options import Balance, Key, attributes_of
from operations.scan import Progress, call, scan
from service.contracts import customer as contract
from service.dynamodb.client import DynamoDB
from service.dynamodb.table import Row
from service.runtime.errors import ServiceError

DIFFERS: Final = 3
"""The exit code."""
SHOWN: Final = 20
TIMEOUT_S: Final = 30.0
_NUMBER: Final = 2**64
_NUMBERS: Final = (contract.ADJUSTMENTS_INDEX_KEY, "points", "balance")

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(slots=True)
class Account:
    """A client's row, and a checksum of its adjustments read so far."""

    balance: int
    count: int
    left: int = 0
    opening: int | None = None

    def add(self, sequence: int, points: int, balance: int) -> None:
        before = balance - points
        if sequence == 1:
            self.opening = before
        self.left = (self.left + _place(sequence, balance) - _place(sequence - 1, before)) % _NUMBER

    @property
    def is_right(self) -> bool:
        if not self.count:
            return self.balance >= 0
        if self.opening is None or self.balance < 0:
            return False
        return self.left == (_place(self.count, self.balance) - _place(0, self.opening)) % _NUMBER


def _place(sequence: int, balance: int) -> int:
    """Hash a text: Python mixes its bytes (SipHash), whereas adjacent numbers would give similar sums."""
    return hash(f"{sequence} {balance}") % _NUMBER


def _account(row: Row, balance: str) -> Account | None:
    """Return the figures in a client's row; None if they are invalid. `balance` is the name of its attribute."""
    try:
        counted = contract.COUNT_ATTRIBUTE in row
        return Account(int(row[balance]["N"]), int(row[contract.COUNT_ATTRIBUTE]["N"]) if counted else 0)
    except (KeyError, TypeError, ValueError):
        return None


def _numbers(row: Row) -> tuple[int, int, int] | None:
    """Return an adjustment's sequence, points and balance; None if one of them is not an integer."""
    try:
        sequence, points, balance = (int(row[name]["N"]) for name in _NUMBERS)
    except (KeyError, TypeError, ValueError):
        return None
    return sequence, points, balance


def _odd(row: Row) -> str:
    return f"adjustment {row[contract.ADJUSTMENTS_SORT_KEY]['S']!r} has no integer {', '.join(_NUMBERS)}"


def _text(row: Row, attribute: str, table: str, variable: str) -> str:
    try:
        text: str = row[attribute]["S"]
    except (KeyError, TypeError):
        raise ServiceError(f"table {table} has a row without the text {attribute}", f"correct {variable}") from None
    return text


@dataclass
class Found:
    clients: int = 0
    points: int = 0
    """Sum of all balances."""
    adjustments: int = 0
    newer: int = 0
    """Adjustments made while the tables were read."""
    differ: dict[str, str] = field(default_factory=dict)
    """Client id -> what is wrong."""


class Reconciliation:
    def __init__(
        self, api: DynamoDB, balances: str, adjustments: str, attributes: contract.Attributes, *, segments: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._api = api
        self._balances = balances
        self._adjustments = adjustments
        self._attributes = attributes
        self._odd = f"the row has no integer {attributes.balance} or {contract.COUNT_ATTRIBUTE}"
        self._segments = segments
        self._progress = progress
        self._accounts: dict[str, Account] = {}
        self._newest: dict[str, int] = {}
        """Client id -> highest number of an adjustment not yet counted when the balances were read."""
        self.found = Found()

    async def run(self) -> Found:
        """Compare every balance with its ledger. Raises `ServiceError` if a table cannot be read."""
        await scan(self._api, self._balances, "DDB_TABLE", self._take_balances, self._progress, segments=self._segments)
        names = (contract.ADJUSTMENTS_PARTITION_KEY, contract.ADJUSTMENTS_SORT_KEY, *_NUMBERS)
        await scan(
            self._api, self._adjustments, "ADJUSTMENTS_TABLE", self._take_adjustments, self._progress,
            segments=self._segments, only=names,
        )  # fmt: skip
        self._progress.end()
        for client_id, account in self._accounts.items():
            if account.is_right or client_id in self.found.differ:
                continue
            if problem := await self._look(client_id, account):
                self.found.differ[client_id] = problem
        newest = iter(sorted(self._newest.items()))
        await asyncio.gather(*(self._count_again(newest) for _ in range(self._segments)))
        return self.found

    async def _count_again(self, newest: Iterator[tuple[str, int]]) -> None:
        for client_id, sequence in newest:
            key = {self._attributes.key: {"S": client_id}}
            body = {"TableName": self._balances, "Key": key, "ConsistentRead": True}
            row = (await call(self._api, "GetItem", body, self._balances, "DDB_TABLE")).get("Item")
            account = _account(row, self._attributes.balance) if row else None
            if row is None:
                problem = "there are adjustments, and no such client"
            elif account is None:
                problem = self._odd
            elif account.count < sequence:
                problem = f"there is adjustment {sequence}, and the client's row counts {account.count}"
            else:
                continue
            self.found.differ.setdefault(client_id, problem)

    def _take_balances(self, rows: Sequence[Row]) -> None:
        for row in rows:
            client_id = _text(row, self._attributes.key, self._balances, "DDB_TABLE")
            self.found.clients += 1
            if account := _account(row, self._attributes.balance):
                self.found.points += account.balance
                self._accounts[client_id] = account
            else:
                self.found.differ[client_id] = self._odd

    def _take_adjustments(self, rows: Sequence[Row]) -> None:
        for row in rows:
            client_id = _text(row, contract.ADJUSTMENTS_PARTITION_KEY, self._adjustments, "ADJUSTMENTS_TABLE")
            numbers = _numbers(row)
            if numbers is None:
                self.found.differ.setdefault(client_id, _odd(row))
                continue
            account = self._accounts.get(client_id)
            if account is None or numbers[0] > account.count:
                self.found.newer += 1
                self._newest[client_id] = max(numbers[0], self._newest.get(client_id, 0))
                continue
            self.found.adjustments += 1
            account.add(*numbers)

    async def _look(self, client_id: str, account: Account) -> str:
        """Read a client again; return what is wrong, or "" if its rows had only just been written."""
        expected, before = 1, None
        async for row in self._rows(client_id):
            if (numbers := _numbers(row)) is None:
                return _odd(row)
            sequence, points, balance = numbers
            if sequence > account.count:
                break
            name = f"adjustment {sequence} ({row[contract.ADJUSTMENTS_SORT_KEY]['S']})"
            if sequence != expected:
                return f"{name} comes where {expected} must come"
            if before is not None and balance != before + points:
                return f"{name} makes {balance} of {before} by {points:+} points"
            expected, before = sequence + 1, balance
        if expected <= account.count:
            return f"the client's row counts {account.count} adjustments, and there are {expected - 1}"
        if before not in (None, account.balance):
            return f"the balance is {account.balance}, and the adjustments make it {before}"
        return f"the balance is {account.balance}" if account.balance < 0 else ""

    async def _rows(self, client_id: str) -> Any:
        body = {
            "TableName": self._adjustments,
            "IndexName": contract.ADJUSTMENTS_INDEX,
            "KeyConditionExpression": f"{contract.ADJUSTMENTS_PARTITION_KEY} = :c",
            "ExpressionAttributeValues": {":c": {"S": client_id}},
            "ConsistentRead": True,
        }
        while True:
            page = await call(self._api, "Query", body, self._adjustments, "ADJUSTMENTS_TABLE")
            for row in page["Items"]:
                yield row
            if "LastEvaluatedKey" not in page:
                return
            body["ExclusiveStartKey"] = page["LastEvaluatedKey"]


async def reconcile(
    balances: str, adjustments: str, attributes: contract.Attributes = contract.ATTRIBUTES, *, segments: int,
    progress: Progress | None = None,
) -> Found:  # fmt: skip
    """Compare two tables, with `segments` parallel scans of each. Raises `ServiceError` if one cannot be read."""
    api = DynamoDB.configured(TIMEOUT_S)
    try:
        given = progress or Progress(shown=False)
        work = Reconciliation(api, balances, adjustments, attributes, segments=segments, progress=given)
        return await work.run()
    finally:
        api.close()


@cli.command(help=__doc__)
def main(
    balances: Annotated[str, typer.Option(envvar="DDB_TABLE", help="The table of the balances.")],
    adjustments: Annotated[str, typer.Option(envvar="ADJUSTMENTS_TABLE", help="The table of the adjustments.")],
    key: Key = "",
    balance: Balance = "",
    segments: Annotated[int, typer.Option(min=1, max=1000, help="Scans at a time.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="What was found, as one JSON object.")] = False,
) -> None:
    attributes = attributes_of(key, balance)
    try:
        found = asyncio.run(reconcile(balances, adjustments, attributes, segments=segments, progress=Progress()))
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        told = {"clients": found.clients, "points": found.points, "adjustments": found.adjustments}
        print(json.dumps({**told, "newer": found.newer, "differ": found.differ}, ensure_ascii=False))
    else:
        print(f"{found.clients:,} clients with {found.points:,} points, {found.adjustments:,} adjustments")
        for client_id, problem in list(found.differ.items())[:SHOWN]:
            print(f"client {client_id}: {problem}")
        if len(found.differ) > SHOWN:
            print(f"and {len(found.differ) - SHOWN:,} more; --json has all")
        print("each balance is what its adjustments make it" if not found.differ else f"{len(found.differ):,} differ")
    if found.differ:
        raise typer.Exit(DIFFERS)


if __name__ == "__main__":
    cli(prog_name="python -m operations.reconcile")
