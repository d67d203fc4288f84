"""Rows written by BatchWriteItem: what was left is asked again, what is refused is found by halving.

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
"""Of the rows of one call: DynamoDB refuses a body of 16 MB, and what is in flight is held in memory."""
CALL_TIMEOUT_S: Final = 10.0
BUDGET_S: Final = 15.0
"""From a batch's first call to the start of its last one."""
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0

Key = tuple[str, str]
"""Partition and sort key, both strings."""


@dataclass(slots=True, eq=False)
class Item:
    key: Key
    encoded: bytes
    """The row in DynamoDB's JSON."""


@dataclass(slots=True)
class Result:
    """What became of a batch: each of its rows is in one of the three."""

    written: list[Item] = field(default_factory=list)
    refused: list[tuple[Item, str]] = field(default_factory=list)
    """Rows that DynamoDB will never take, and why."""
    unwritten: list[Item] = field(default_factory=list)
    """Rows that the next call may write."""
    problem: str = ""
    """Why a call failed or left rows, also where a later one wrote them."""
    lost: bool = False
    """A call had no answer: it was work for nothing, and more of it makes a busy DynamoDB busier."""


class Writer:
    """A table with a partition and a sort key, both strings. `variable` names it in the environment. `open` first."""

    def __init__(self, name: str, partition_key: str, sort_key: str, variable: str) -> None:
        self.name = name
        self._variable = variable
        self.errors: Counter[str] = Counter()
        self._keys = partition_key, sort_key
        self._is_open = False
        self._api: DynamoDB

    def open(self) -> None:
        """Read the AWS configuration. Raises `ServiceError` when it is not complete."""
        if not self._is_open:
            self._api = DynamoDB.configured(CALL_TIMEOUT_S)
            self._is_open = True

    def close(self) -> None:
        if self._is_open:
            self._api.close()

    async def check(self) -> None:
        """Raise `ServiceError` unless the table is there and has the keys."""
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
        """Write up to `MAX_ITEMS` rows, each key once. Does not raise.

        What DynamoDB does not take now is asked for again within `BUDGET_S`. A batch that it refuses for its rows is
        halved until they are found, however long that takes: a search begun anew would never end on a slow table.
        """
        result = Result()
        clock = asyncio.get_running_loop().time
        deadline = clock() + BUDGET_S
        batches, attempt = [list(items)], 0
        """What is not written yet, and how often its last batch was tried without progress."""
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
                elif half := len(batch) // 2:
                    batches += batch[half:], batch[:half]
                    attempt = 0
                elif problem := await self._problem():
                    result.problem = problem
                    batches.append(batch)
                    attempt += 1
                else:
                    result.refused.append((batch[0], str(error)))
                    attempt = 0
                continue
            result.written += [item for item in batch if item.key not in left] if left else batch
            if left:
                self.errors["UnprocessedItems"] += 1
                result.problem = "DynamoDB is busy"
                batches.append([item for item in batch if item.key in left])
                attempt = 1 if len(left) < len(batch) else attempt + 1
            else:
                attempt = 0
        return result

    async def _problem(self) -> str:
        """Why no row at all would be taken: a table that was made anew, with other keys, refuses each one."""
        try:
            await self.check()
        except ServiceError as error:
            cause = error.__cause__
            is_denied = isinstance(cause, DynamoDBError) and cause.code == "AccessDeniedException"
            return "" if is_denied else str(error)  # not to be let see it says nothing about the table
        return ""

    async def _batch_write(self, items: Sequence[Item]) -> set[Key]:
        """The keys that were left."""
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
    """A smaller batch, or one without some row, may be taken."""
    if not isinstance(error, DynamoDBError):
        return False
    return error.code == "ValidationException" or error.status == 413 or error.code == "RequestEntityTooLarge"
