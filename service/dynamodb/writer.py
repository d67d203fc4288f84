"""Write rows with BatchWriteItem: retry unprocessed rows, and find refused ones by halving the batch.

https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from service.dynamodb.client import DynamoDB
from service.dynamodb.errors import DynamoDBError, InvalidResponse, kind, reason
from service.dynamodb.explain import explain
from service.runtime.errors import ServiceError

MAX_ITEMS: Final = 25
MAX_BYTES: Final = 2 * 1024 * 1024
"""Maximum bytes of rows in one call: DynamoDB refuses a body above 16 MB, and rows in flight take memory."""
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0

Key = tuple[str, str]
"""Partition and sort key, both strings."""


@dataclass(frozen=True, slots=True)
class Timing:
    call_timeout_s: float = 10.0
    budget_s: float = 15.0
    """Maximum seconds from a batch's first call to the start of its last one."""


@dataclass(slots=True, eq=False)
class Item:
    key: Key
    encoded: bytes
    """The row in DynamoDB JSON."""


@dataclass(slots=True)
class Result:
    """The result of a batch: each of its rows is in exactly one of the three lists."""

    written: list[Item] = field(default_factory=list)
    refused: list[tuple[Item, str]] = field(default_factory=list)
    """Rows that DynamoDB will never accept, each with the reason."""
    unwritten: list[Item] = field(default_factory=list)
    """Rows to try again."""
    problem: str = ""
    """Why the last failed call failed or left rows, even if a later call wrote them."""
    lost: bool = False
    """True if a call failed without an error from DynamoDB; the caller should lower its concurrency."""


class Writer:
    """A table with a partition and a sort key, both strings. Call `open` first.

    `variable` is the environment variable with its name, for errors.
    """

    def __init__(
        self, name: str, partition_key: str, sort_key: str, variable: str, *, timing: Timing = Timing()
    ) -> None:
        self.name = name
        self._variable = variable
        self._timing = timing
        self.errors: Counter[str] = Counter()
        self._keys = partition_key, sort_key
        self._is_open = False
        self._api: DynamoDB

    def open(self) -> None:
        """Read the AWS configuration. Raise `ServiceError` if it is incomplete or invalid."""
        if not self._is_open:
            self._api = DynamoDB.configured(self._timing.call_timeout_s)
            self._is_open = True

    def close(self) -> None:
        if self._is_open:
            self._api.close()

    async def check(self) -> None:
        """Raise `ServiceError` unless the table exists and has these keys."""
        try:
            described = await self._api.call("DescribeTable", {"TableName": self.name})
            table = described["Table"]
            types = {entry["AttributeName"]: entry["AttributeType"] for entry in table["AttributeDefinitions"]}
            found = [(entry["AttributeName"], types[entry["AttributeName"]]) for entry in table["KeySchema"]]
        except (KeyError, TypeError) as error:
            raise ServiceError(f"table {self.name}: a description without keys ({error})", "see the endpoint") from None
        except Exception as error:
            raise self._explain(error) from error
        if found != [(name, "S") for name in self._keys]:
            shown = ", ".join(f"{name} ({kind})" for name, kind in found)
            raise ServiceError(
                f"table {self.name} has the keys {shown}",
                f"give a table with the keys {' (S), '.join(self._keys)} (S)",
            )

    async def write(self, items: Sequence[Item]) -> Result:
        """Write up to `MAX_ITEMS` rows with distinct keys. Never raise.

        Retry for `budget_s` seconds the rows that DynamoDB does not accept yet. Halve a batch that it refuses because
        of its rows until those are found, without a time limit: a search that started over would never end on a slow
        table.
        """
        result = Result()
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timing.budget_s
        batches, attempt = [list(items)], 0
        """Batches not written yet, and how often the last one was tried without progress."""
        suspect: Item | None = None
        while batches:
            if attempt:
                await asyncio.sleep(min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0**attempt) * random.random())
                if clock() > deadline:
                    result.unwritten += [item for batch in batches for item in batch]
                    break
            batch = batches.pop()
            try:
                left = await self._batch_write(batch)
            except Exception as error:
                self.errors[kind(error)] += 1
                if not _blames_the_rows(error):
                    result.lost |= not isinstance(error, DynamoDBError)
                    result.problem = reason(error)
                    batches.append(batch)
                    attempt += 1
                elif half := len(batch) // 2:  # some row is refused: look for it in each half
                    batches += batch[half:], batch[:half]
                    attempt = 0
                elif problem := await self._problem():  # a single row is refused, but so would be any other
                    result.problem = problem
                    batches.append(batch)
                    attempt += 1
                elif batch[0] is not suspect:  # the table may have been wrong when it refused the row, and right since
                    suspect = batch[0]
                    batches.append(batch)
                    attempt = 0
                else:
                    result.refused.append((batch[0], str(error)))
                    attempt = 0
                continue
            result.written += [item for item in batch if item.key not in left] if left else batch
            if left:
                self.errors["UnprocessedItems"] += 1
                result.problem = "DynamoDB is busy"
                batches.append([item for item in batch if item.key in left])
                attempt = 1 if len(left) < len(batch) else attempt + 1  # some progress resets the backoff
            else:
                attempt = 0
        return result

    async def _problem(self) -> str:
        """Return why DynamoDB would refuse any row, or '': a table recreated with other keys refuses every row."""
        try:
            await self.check()
        except ServiceError as error:
            cause = error.__cause__
            is_denied = isinstance(cause, DynamoDBError) and cause.code == "AccessDeniedException"
            return "" if is_denied else str(error)  # without permission to describe the table, nothing is known
        return ""

    async def _batch_write(self, items: Sequence[Item]) -> set[Key]:
        """Write one batch; return the keys left unprocessed."""
        puts = b'[{"PutRequest":{"Item":%b}}]' % b'}},{"PutRequest":{"Item":'.join([item.encoded for item in items])
        response = await self._api.call("BatchWriteItem", {"RequestItems": {self.name: orjson.Fragment(puts)}})
        try:
            return self._left(response, items)
        except InvalidResponse:
            self._api.distrust()
            raise

    def _left(self, response: dict[str, Any], items: Sequence[Item]) -> set[Key]:
        try:
            unprocessed = response["UnprocessedItems"]
            if unprocessed.keys() - {self.name}:
                raise InvalidResponse("unprocessed rows of another table")
            left = unprocessed.get(self.name)
            if not left:
                return set()
            partition, sort = self._keys
            rows: list[dict[str, Any]] = [entry["PutRequest"]["Item"] for entry in left]
            keys = {(row[partition]["S"], row[sort]["S"]) for row in rows}
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidResponse("a response without UnprocessedItems") from error
        if not keys <= {item.key for item in items}:
            raise InvalidResponse("unprocessed rows that were not sent")
        return keys

    def _explain(self, error: Exception) -> ServiceError:
        return explain(error, self.name, self._variable, "see the table in the AWS console")


def _blames_the_rows(error: Exception) -> bool:
    """Return whether a smaller batch, or one without a certain row, may succeed."""
    if not isinstance(error, DynamoDBError):
        return False
    return error.code == "ValidationException" or error.status == 413 or error.code == "RequestEntityTooLarge"
