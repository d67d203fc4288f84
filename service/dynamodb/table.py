"""A DynamoDB table: batched reads within a deadline, and inserts that never overwrite. Rows stay raw.

Transient errors leave this module as `TableUnavailableError`, others unchanged.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from service.dynamodb.client import DynamoDB
from service.dynamodb.errors import (
    DynamoDBError,
    InvalidResponse,
    TableUnavailableError,
    classify,
    is_retryable,
    kind,
    reason,
)
from service.dynamodb.explain import explain
from service.runtime.errors import ServiceError
from service.runtime.telemetry.metrics import Histogram

DEADLINE_S: Final = 1.9
"""Seconds from a batch's first call to its last answer: with the batch's forming, a requester waits 2 s at most."""
CALL_TIMEOUT_S: Final = 0.9
MAX_CALLS: Final = 3
BACKOFF_S: Final = 0.05
MAX_KEYS: Final = 100
"""BatchGetItem's limit: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html"""
CALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
BATCH_BUCKETS: Final = (1, 2, 5, 10, 25, 50, 100)

Row = Mapping[str, Any]
"""Attribute name -> value in DynamoDB JSON."""

Outcome = Row | None | Exception
"""Result of reading a key: its row; None if it has no row; the error if it could not be read."""

Give = Callable[[Mapping[str, Outcome]], None]
"""Takes key -> outcome, for some keys of a read."""


@dataclass(slots=True)
class TableStats:
    errors: Counter[str] = field(default_factory=Counter)
    call_seconds: Histogram = field(default_factory=lambda: Histogram(CALL_BUCKETS))
    batch_keys: Histogram = field(default_factory=lambda: Histogram(BATCH_BUCKETS))


class Table:
    """A table with a partition key of type string named `key`. Call `open` first.

    `variable` is the environment variable with its name, for errors.
    """

    def __init__(self, name: str, key: str, variable: str) -> None:
        self.name = name
        self._variable = variable
        self.stats = TableStats()
        self.problem: str | None = None
        """Why the last read failed; None if it did not."""
        self._key = key
        each = b'{%b:{"S":' % orjson.dumps(key)
        self._head = b'{"RequestItems":{%b:{"Keys":[%b' % (orjson.dumps(name), each)
        self._between = b'"}},%b"' % each
        self._is_open = False
        self._api: DynamoDB

    def open(self) -> None:
        """Read the AWS configuration. The first call connects.

        Raise `ServiceError` if no region is set or the endpoint is not an address.
        """
        if not self._is_open:
            self._api = DynamoDB.configured(CALL_TIMEOUT_S)
            self._is_open = True

    def close(self) -> None:
        if self._is_open:
            self._api.close()

    async def read(self, keys: Sequence[str], give: Give, *, consistent: bool = False) -> None:
        """Read up to `MAX_KEYS` distinct keys. `give` each outcome once, those of a call before the next call is made.

        Make at most `MAX_CALLS` calls in `DEADLINE_S` seconds, with full jitter before each retry of unread keys.
        Raise only what `give` raises. `consistent`: the read sees every write confirmed before it.
        """
        self.stats.batch_keys.observe(len(keys))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DEADLINE_S
        unread = list(keys)
        problem: Exception | None = None
        for attempt in range(MAX_CALLS):
            if attempt:
                wait_s = backoff_s(attempt)
                if loop.time() + wait_s >= deadline:
                    break
                await asyncio.sleep(wait_s)
            try:
                found, unprocessed = await self._batch_get(unread, consistent, deadline)
            except Exception as error:
                problem = error
                if not is_retryable(error) or loop.time() >= deadline:
                    break
                self.stats.errors[kind(error)] += 1
                continue
            if len(found) + len(unprocessed) < len(unread):
                found.update((key, None) for key in unread if key not in found and key not in unprocessed)
            self.problem = None
            if found:
                give(found)
            if not unprocessed:
                return
            self.stats.errors["UnprocessedKeys"] += 1
            unread = list(unprocessed)
        failure = classify(problem) if problem else TableUnavailableError("the database is busy")
        self.problem = reason(failure)
        give(dict.fromkeys(unread, failure))

    async def get(self, key: str, *, consistent: bool = False) -> Outcome:
        """Return the outcome of one key. Never raise."""
        outcomes: dict[str, Outcome] = {}

        await self.read([key], outcomes.update, consistent=consistent)
        return outcomes[key]

    async def insert(self, row: Row) -> bool:
        """Put a row unless its key has one already; return whether it was put.

        Send it once: a retry after a lost answer would find its own row and take it for another's.
        Raise `TableUnavailableError` for a transient error, and any other error unchanged.
        """
        put = {
            "TableName": self.name, "Item": row, "ConditionExpression": "attribute_not_exists(#k)",
            "ExpressionAttributeNames": {"#k": self._key},
        }  # fmt: skip
        try:
            await self._api.call("PutItem", put, again=False)
        except Exception as error:
            if isinstance(error, DynamoDBError) and error.code == "ConditionalCheckFailedException":
                return False
            self.stats.errors[kind(error)] += 1
            raise classify(error) from error
        return True

    async def insert_or_retry(self, row: Row) -> bool:
        """Call `insert` up to `MAX_CALLS` times, with full jitter in between.

        False may mean this very row, from a call whose response was lost. Raise the error of the last `insert`.
        """
        for attempt in range(1, MAX_CALLS):
            try:
                return await self.insert(row)
            except TableUnavailableError:
                await asyncio.sleep(backoff_s(attempt))
        return await self.insert(row)

    async def check(self) -> None:
        """Raise `ServiceError` unless the table can be read."""
        outcome = await self.get("1")
        if isinstance(outcome, Exception):
            raise self.explain(outcome)

    async def _batch_get(
        self, keys: list[str], consistent: bool, deadline: float
    ) -> tuple[dict[str, Outcome], set[str]]:
        """Return the rows found, and the keys left unprocessed."""
        request = b'%b"%b"}}]%b}}}' % (self._head, self._listed(keys), b',"ConsistentRead":true' if consistent else b"")
        started = time.perf_counter()
        try:
            response = await self._api.call("BatchGetItem", request, deadline)
        finally:
            self.stats.call_seconds.observe(time.perf_counter() - started)
        try:
            return self._found(response, set(keys))
        except InvalidResponse:
            self._api.distrust()
            raise

    def _listed(self, keys: list[str]) -> bytes:
        """Return the keys' JSON between the first quote and the last."""
        encoded = orjson.dumps(keys)
        if b'\\"' in encoded:  # an escaped quote, or a backslash before the last one: `",` ends like a separator
            return self._between.join([orjson.dumps(key)[1:-1] for key in keys])
        # After the first quote, only a separator reads `","`; including it, a first key `,` would, too.
        return encoded[2:-2].replace(b'","', self._between)

    def _found(self, response: Mapping[str, Any], asked: set[str]) -> tuple[dict[str, Outcome], set[str]]:
        try:
            found: dict[str, Outcome] = {row[self._key]["S"]: row for row in response["Responses"].get(self.name, ())}
            left = response.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", ())
            unprocessed: set[str] = {key[self._key]["S"] for key in left}
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidResponse("a response without Responses") from error
        if not found.keys() <= asked or not unprocessed <= asked:
            raise InvalidResponse("rows of keys that were not asked for")
        return found, unprocessed - found.keys()

    def explain(self, error: Exception) -> ServiceError:
        """Return why the table cannot be used, with the remedy."""
        return explain(error, self.name, self._variable, f"see that its key is a string named {self._key}")


def backoff_s(attempt: int) -> float:
    """Return the seconds before a retry, with full jitter: tasks refused together must not retry together."""
    return BACKOFF_S * 2.0**attempt * random.random()
