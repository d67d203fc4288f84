"""`python -m operations.reconcile`: is each balance what its client's adjustments make it?

The balances are read first, then the adjustments. A client's row says how many adjustments it counts; their rows were
written together with it, so all of them are found, and later ones are left out. So it is exact while tasks adjust.

For each client, the rows 1 to n must follow from each other, and the last one's balance must be the client's. That is
checked in any order of the rows, and without keeping them: each row adds a number made of its own place and balance,
and takes away the one of the row before it. Of a chain without a gap, only those of its two ends are left.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer

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

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(slots=True)
class Account:
    """A client, and what his adjustments that were read so far leave."""

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
    """Of a text: Python mixes its bytes (SipHash), where numbers beside each other would give sums that are alike."""
    return hash(f"{sequence} {balance}") % _NUMBER


@dataclass
class Found:
    clients: int = 0
    points: int = 0
    """In all balances."""
    adjustments: int = 0
    newer: int = 0
    """Adjustments made while the tables were read."""
    differ: dict[str, str] = field(default_factory=dict)
    """What is wrong, by client."""


class Reconciliation:
    def __init__(self, api: DynamoDB, balances: str, adjustments: str, *, segments: int, progress: Progress) -> None:
        self._api = api
        self._balances = balances
        self._adjustments = adjustments
        self._segments = segments
        self._progress = progress
        self._accounts: dict[str, Account] = {}
        self._strangers: set[str] = set()
        """Who has adjustments, and was no client when the balances were read."""
        self.found = Found()

    async def run(self) -> Found:
        """Compare every balance with its ledger. Raises `ServiceError` when a table cannot be read."""
        await scan(self._api, self._balances, "DDB_TABLE", self._take_balances, self._progress, segments=self._segments)
        names = (contract.ADJUSTMENTS_PARTITION_KEY, contract.ADJUSTMENTS_INDEX_KEY, "points", "balance")
        only = {
            "ProjectionExpression": ", ".join(f"#{number}" for number in range(len(names))),
            "ExpressionAttributeNames": {f"#{number}": name for number, name in enumerate(names)},
        }
        await scan(
            self._api, self._adjustments, "ADJUSTMENTS_TABLE", self._take_adjustments, self._progress,
            segments=self._segments, only=only,
        )  # fmt: skip
        self._progress.end()
        for client_id, account in self._accounts.items():
            if not account.is_right and (problem := await self._look(client_id, account)):
                self.found.differ[client_id] = problem
        for client_id in sorted(self._strangers):
            key = {contract.KEY_ATTRIBUTE: {"S": client_id}}
            body = {"TableName": self._balances, "Key": key, "ConsistentRead": True}
            if "Item" not in await call(self._api, "GetItem", body, self._balances, "DDB_TABLE"):
                self.found.differ[client_id] = "there are adjustments, and no such client"
        return self.found

    def _take_balances(self, rows: Sequence[Row]) -> None:
        for row in rows:
            client_id = row[contract.KEY_ATTRIBUTE]["S"]
            self.found.clients += 1
            try:
                balance = int(row[contract.BALANCE_ATTRIBUTE]["N"])
                count = int(row[contract.COUNT_ATTRIBUTE]["N"]) if contract.COUNT_ATTRIBUTE in row else 0
            except (KeyError, TypeError, ValueError):
                names = f"{contract.BALANCE_ATTRIBUTE} or {contract.COUNT_ATTRIBUTE}"
                self.found.differ[client_id] = f"the row has no integer {names}"
                continue
            self.found.points += balance
            self._accounts[client_id] = Account(balance, count)

    def _take_adjustments(self, rows: Sequence[Row]) -> None:
        for row in rows:
            client_id = row[contract.ADJUSTMENTS_PARTITION_KEY]["S"]
            sequence = int(row[contract.ADJUSTMENTS_INDEX_KEY]["N"])
            account = self._accounts.get(client_id)
            if account is None and client_id not in self.found.differ:
                self._strangers.add(client_id)
            if account is None or sequence > account.count:
                self.found.newer += 1
                continue
            self.found.adjustments += 1
            account.add(sequence, int(row["points"]["N"]), int(row["balance"]["N"]))

    async def _look(self, client_id: str, account: Account) -> str:
        """Read a client again; return what is wrong, or "" when its rows had just been written."""
        if account.balance < 0:
            return f"the balance is {account.balance}"
        expected, before = 1, None
        async for row in self._rows(client_id):
            sequence, points, balance = (int(row[name]["N"]) for name in ("sequence", "points", "balance"))
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
        if before is not None and before != account.balance:
            return f"the balance is {account.balance}, and the adjustments make it {before}"
        return ""

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


async def reconcile(balances: str, adjustments: str, *, segments: int, progress: Progress | None = None) -> Found:
    """Compare two tables, `segments` parallel scans each. Raises `ServiceError` when one cannot be read."""
    api = DynamoDB.configured(TIMEOUT_S)
    try:
        given = progress or Progress(shown=False)
        return await Reconciliation(api, balances, adjustments, segments=segments, progress=given).run()
    finally:
        api.close()


@cli.command(help=__doc__)
def main(
    balances: Annotated[str, typer.Option(envvar="DDB_TABLE", help="The table of the balances.")],
    adjustments: Annotated[str, typer.Option(envvar="ADJUSTMENTS_TABLE", help="The table of the adjustments.")],
    segments: Annotated[int, typer.Option(min=1, max=1000, help="Scans at a time.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="What was found, as one JSON object.")] = False,
) -> None:
    try:
        found = asyncio.run(reconcile(balances, adjustments, segments=segments, progress=Progress()))
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
