"""The tables of balances and of adjustments: read together, and written in one transaction.

| in a transaction | condition |
| --- | --- |
| the client's row: its new balance and number of adjustments | both are as they were read; a missing number is 0 |
| a row for each adjustment | no row has its id |

https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson
import structlog

from service.contracts import customer as contract
from service.customer.ledger.decide import Client, Entry, State
from service.customer.store.rows import balance_of, count_of
from service.dynamodb.client import DynamoDB
from service.dynamodb.errors import DynamoDBError, InvalidResponse, is_retryable, kind
from service.dynamodb.explain import explain
from service.dynamodb.table import BATCH_BUCKETS, CALL_BUCKETS, CALL_TIMEOUT_S, DEADLINE_S, Row
from service.requests.errors import InternalError
from service.runtime.errors import ServiceError
from service.runtime.telemetry.metrics import Histogram
from service.runtime.telemetry.tracing import NoTracing, Tracing

log: Final = structlog.get_logger("service.customer")

MAX_ENTRIES: Final = 99
"""Entries in a transaction: it takes 100 items, one of them the balance. A BatchGetItem takes 100 keys."""
TOLD: Final = frozenset({"ConsumedCapacity", "ItemCollectionMetrics"})
"""The only fields of DynamoDB's response to a transaction that it executed."""
_ID, _SORT = contract.ADJUSTMENTS_PARTITION_KEY, contract.ADJUSTMENTS_SORT_KEY
_SEQUENCE: Final = contract.ADJUSTMENTS_INDEX_KEY
_N: Final = contract.COUNT_ATTRIBUTE.encode()

_NOT_TRACED: Final = NoTracing()

Result = TypeVar("Result")


@dataclass(slots=True)
class LedgerStats:
    errors: Counter[str] = field(default_factory=Counter)
    transaction_entries: Histogram = field(default_factory=lambda: Histogram(BATCH_BUCKETS))
    transaction_seconds: Histogram = field(default_factory=lambda: Histogram(CALL_BUCKETS))


class Ledger:
    """Reads and writes both tables. Call `open` first.

    A method with a `deadline` (on the event loop's clock) makes one call, due by then, and raises the call's error.
    """

    def __init__(
        self, balances: str, adjustments: str, attributes: contract.Attributes = contract.ATTRIBUTES,
        tracing: NoTracing | Tracing = _NOT_TRACED,
    ) -> None:  # fmt: skip
        self.name = adjustments
        self.tracing = tracing
        self.stats = LedgerStats()
        self._balances = balances
        self._attributes = attributes
        self._update = (
            b'{"TransactItems":[{"Update":{"TableName":%b,"UpdateExpression":"SET #b = :b, %b = :n",'
            b'"ExpressionAttributeNames":{"#b":%b},"Key":{%b:{"S":'
        ) % (orjson.dumps(balances), _N, orjson.dumps(attributes.balance), orjson.dumps(attributes.key))
        self._put = b'{"Put":{"TableName":%b,"ConditionExpression":"attribute_not_exists(%b)","Item":' % (
            orjson.dumps(adjustments), _ID.encode(),
        )  # fmt: skip
        self._is_open = False
        self._api: DynamoDB

    def open(self) -> None:
        """Read the AWS configuration. Raise `ServiceError` if it is incomplete."""
        if not self._is_open:
            self._api = DynamoDB.configured(CALL_TIMEOUT_S)
            self._is_open = True

    def close(self) -> None:
        if self._is_open:
            self._api.close()

    async def check(self, looks: int = 1) -> None:
        """Raise `ServiceError` unless the table of adjustments exists, with its keys and its index.

        `looks`: how often to try if the table does not answer.
        """
        try:
            await self._looked_at(looks)
        except Exception as error:
            keys = f"{_ID} and {_SORT} (S), and the local index {contract.ADJUSTMENTS_INDEX} on {_SEQUENCE} (N)"
            raise explain(error, self.name, "ADJUSTMENTS_TABLE", f"see that it has the keys {keys}") from error

        await self._check_index()

    async def _check_index(self) -> None:
        """Raise `ServiceError` if the index lacks attributes. Skip the check if the table cannot be described."""
        try:
            described = await self._api.call("DescribeTable", {"TableName": self.name})
            indexes = described["Table"].get("LocalSecondaryIndexes", ())
            projected = {index["IndexName"]: index["Projection"]["ProjectionType"] for index in indexes}
        except Exception as error:  # the table was read a moment ago
            log.debug("the index was not looked at", error=str(error) or type(error).__name__)
            return
        found = projected.get(contract.ADJUSTMENTS_INDEX, "ALL")
        if found != "ALL":
            raise ServiceError(
                f"table {self.name}: its index {contract.ADJUSTMENTS_INDEX} projects {found}, and must project ALL",
                "an index cannot be changed: make the table again, with the index, and copy the rows",
            )

    async def _looked_at(self, looks: int) -> None:
        for left in reversed(range(looks)):
            deadline = asyncio.get_running_loop().time() + DEADLINE_S
            try:
                await self.look("1", ["1"], deadline)
                await self.page("1", 1, 1, deadline)  # with a number, so that an index on strings refuses it
            except Exception as error:
                if not left or not is_retryable(error):
                    raise
            else:
                return

    async def read(
        self, client_id: str, adjustment_ids: Sequence[str], deadline: float
    ) -> tuple[Client, dict[str, Entry]]:
        """Return the client, and the entries that exist, by id.

        Each row is read consistently but on its own: an entry may be newer than the client, and a missing entry may
        have been written before the client was read.
        """
        row, entries = await self._read([client_id], client_id, adjustment_ids, deadline)
        if row is None:
            return None, entries
        return self.state_of(client_id, row), entries

    def state_of(self, client_id: str, row: Row) -> State | InternalError:
        """Return the state in a client's row, or an error if its balance or its count is not an integer."""
        try:
            return State(balance_of(client_id, row, self._attributes.balance), count_of(client_id, row))
        except InternalError as error:
            return error

    async def look(self, client_id: str, adjustment_ids: Sequence[str], deadline: float) -> dict[str, Entry]:
        """Return the entries that exist now, by id."""
        return (await self._read([], client_id, adjustment_ids, deadline))[1]

    def transaction(self, client_id: str, before: State, new: Sequence[Entry]) -> bytes:
        """Return the body of a call that writes entries and updates the client's row.

        It has a ClientRequestToken, so the same bytes may be sent again and are executed once.
        """
        name, last = orjson.dumps(client_id), new[-1]
        known = b"%b = :m" % _N if before.count else b"(attribute_not_exists(%b) OR %b = :m)" % (_N, _N)
        update = (
            b'%b%b}},"ConditionExpression":"#b = :o AND %b","ExpressionAttributeValues":'
            b'{":b":{"N":"%d"},":n":{"N":"%d"},":o":{"N":"%d"},":m":{"N":"%d"}}}}'
        ) % (self._update, name, known, last.balance, last.sequence, before.balance, before.count)
        puts = [self._put + _encode(name, entry) + b"}}" for entry in new]
        return b'%b],"ClientRequestToken":"%b"}' % (b",".join([update, *puts]), uuid.uuid4().hex.encode())

    async def write(self, transaction: bytes, entries: int, deadline: float) -> None:
        """Execute a transaction. If it is cancelled, raise `DynamoDBError`, whose `reasons` say why."""
        started = time.perf_counter()
        try:
            with self.tracing.call("TransactWriteItems", 1 + entries):
                told = await self._call("TransactWriteItems", transaction, deadline)
            self._parsed(lambda: _written(told))
        finally:
            self.stats.transaction_seconds.observe(time.perf_counter() - started)
        self.stats.transaction_entries.observe(entries)

    async def page(self, client_id: str, before: int | None, limit: int, deadline: float) -> list[Entry]:
        """Return up to `limit` of the client's entries with a sequence below `before`, newest first.

        The read is consistent.
        """
        condition, values = f"{_ID} = :c", {":c": {"S": client_id}}
        if before is not None:
            condition, values = f"{condition} AND #s < :s", {**values, ":s": {"N": str(before)}}
        query = {
            "TableName": self.name,
            "IndexName": contract.ADJUSTMENTS_INDEX,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            **({"ExpressionAttributeNames": {"#s": _SEQUENCE}} if before is not None else {}),
            "ScanIndexForward": False,
            "ConsistentRead": True,
            "Limit": limit,
        }
        with self.tracing.call("Query", 1):
            response = await self._call("Query", query, deadline)
        return self._parsed(lambda: [_entry(row) for row in _of(client_id, response["Items"])])

    async def _read(
        self, client_ids: Sequence[str], client_id: str, adjustment_ids: Sequence[str], deadline: float
    ) -> tuple[Row | None, dict[str, Entry]]:
        keys = [{_ID: {"S": client_id}, _SORT: {"S": key}} for key in dict.fromkeys(adjustment_ids)]
        asked: dict[str, Any] = {self.name: {"Keys": keys, "ConsistentRead": True}}
        if client_ids:
            asked[self._balances] = {
                "Keys": [{self._attributes.key: {"S": client_id}}], "ConsistentRead": True,
            }  # fmt: skip
        with self.tracing.call("BatchGetItem", len(keys) + len(client_ids)):
            response = await self._call("BatchGetItem", {"RequestItems": asked}, deadline)
        if response.get("UnprocessedKeys"):
            self.stats.errors["UnprocessedKeys"] += 1
            raise DynamoDBError(200, "ThrottlingException", "keys were left unprocessed")

        def parse() -> tuple[Row | None, dict[str, Entry]]:
            found, key = response["Responses"], self._attributes.key
            rows = [row for row in found.get(self._balances, ()) if row[key]["S"] == client_id]
            if len(rows) != len(found.get(self._balances, ())):
                raise InvalidResponse("rows of keys that were not asked for")
            entries = [_entry(row) for row in _of(client_id, found.get(self.name, ()))]
            return (rows[0] if rows else None), {entry.adjustment_id: entry for entry in entries}

        return self._parsed(parse)

    def _parsed(self, parse: Callable[[], Result]) -> Result:
        try:
            return parse()
        except InvalidResponse:
            self._api.distrust()
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._api.distrust()
            raise InvalidResponse("a response without what was asked for") from error

    async def _call(self, action: str, body: dict[str, Any] | bytes, deadline: float) -> dict[str, Any]:
        try:
            # The caller retries a transaction itself: it must know of each call that may have been executed.
            return await self._api.call(action, body, deadline, again=action != "TransactWriteItems")
        except Exception as error:
            self.stats.errors[kind(error)] += 1
            raise


def _encode(client_id: bytes, entry: Entry) -> bytes:
    """Encode a row as DynamoDB's JSON. `client_id` is already JSON."""
    reason = b"" if entry.reason is None else b',"reason":{"S":%b}' % orjson.dumps(entry.reason)
    return (
        b'{"client_id":{"S":%b},"adjustment_id":{"S":%b},"points":{"N":"%d"},"balance":{"N":"%d"},'
        b'"sequence":{"N":"%d"},"at":{"S":"%b"}%b}'
    ) % (
        client_id, orjson.dumps(entry.adjustment_id), entry.points, entry.balance, entry.sequence, entry.at.encode(),
        reason,
    )  # fmt: skip


def _entry(row: Row) -> Entry:
    reason = row.get("reason")
    return Entry(
        row[_SORT]["S"], int(row["points"]["N"]), int(row["balance"]["N"]), int(row[_SEQUENCE]["N"]),
        reason["S"] if reason else None, row["at"]["S"],
    )  # fmt: skip


def _written(told: Mapping[str, Any]) -> None:
    if told.keys() - TOLD:
        raise InvalidResponse("a response to something else than a transaction")


def _of(client_id: str, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if any(row[_ID]["S"] != client_id for row in rows):
        raise InvalidResponse("rows of keys that were not asked for")
    return rows
