"""The DynamoDB table: batched reads inside a deadline, and inserts that never overwrite.

Every error of the API leaves here as an `Unavailable`, or as what it is when it is a fault to be logged.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from service.contract import BALANCE_ATTRIBUTE, KEY_ATTRIBUTE
from service.dynamodb import DynamoDB, DynamoDBError, Garbage, NoCredentials
from service.errors import ServiceFault, Unavailable
from service.http import HttpError, Pool
from service.lookup import Outcome

log: Final = structlog.get_logger("service.table")

DEADLINE_S: Final = 1.9
"""From a batch's first call to its last answer: with its time to form, a requester waits two seconds at most."""
CALL_TIMEOUT_S: Final = 0.9
MAX_CALLS: Final = 3
BACKOFF_S: Final = 0.05
BUSY: Final = "the database is busy; try again"
CALL_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
BATCH_BOUNDS: Final = (1, 2, 5, 10, 25, 50, 100)


@dataclass(slots=True)
class TableNumbers:
    errors: Counter[str] = field(default_factory=Counter)
    call_counts: list[int] = field(default_factory=lambda: [0] * (len(CALL_BOUNDS_S) + 1))
    call_seconds: float = 0.0
    batch_counts: list[int] = field(default_factory=lambda: [0] * (len(BATCH_BOUNDS) + 1))
    batch_keys: int = 0


@asynccontextmanager
async def open_table(name: str) -> AsyncIterator[Table]:
    """The table, over one pool of kept-alive connections.

    Raises `ServiceFault` when the AWS configuration names no region.
    """
    session = Session()
    try:
        # botocore itself reads only AWS_DEFAULT_REGION and the profile.
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    except BotoCoreError as error:
        raise ServiceFault(f"AWS configuration: {error}", "set AWS_PROFILE right or leave it out") from None
    if not region:
        raise ServiceFault("AWS_REGION is not set", "set it to the table's region")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:  # botocore knows the partitions' domains
        endpoint = (
            "https://" + session.get_component("endpoint_resolver").construct_endpoint("dynamodb", region)["hostname"]
        )
    try:
        pool = Pool(endpoint, CALL_TIMEOUT_S)
    except ValueError as error:
        raise ServiceFault(f"AWS_ENDPOINT_URL_DYNAMODB: {error}", "set it right or leave it out") from None
    try:
        yield Table(DynamoDB(pool, region), name)
    finally:
        pool.close()


class Table:
    """Reads and inserts balances. Use `open_table`."""

    def __init__(self, api: DynamoDB, name: str) -> None:
        self.name = name
        self.numbers = TableNumbers()
        self._api = api

    async def read(self, ids: Sequence[str]) -> Mapping[str, Outcome]:
        """The balance of each of up to 100 ids; None where there is no row; why, where it could not be had.

        At most `MAX_CALLS` calls and `DEADLINE_S` seconds for each id. A key that DynamoDB refuses fails alone.
        """
        self.numbers.batch_counts[bisect_left(BATCH_BOUNDS, len(ids))] += 1
        self.numbers.batch_keys += len(ids)
        outcomes: dict[str, Outcome] = {}
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._read_into(outcomes, ids)
        except Exception as error:
            outcome = self._translate(error)
            outcomes.update((key, outcome) for key in ids if key not in outcomes)
        return outcomes

    async def insert(self, client_id: str, balance: int) -> bool:
        """Put a row unless one is there; whether it was put.

        Raises `Unavailable` when DynamoDB does not answer, and faults as they are.
        """
        item = {KEY_ATTRIBUTE: {"S": client_id}, BALANCE_ATTRIBUTE: {"N": str(balance)}}
        absent = f"attribute_not_exists({KEY_ATTRIBUTE})"
        payload = {"TableName": self.name, "Item": item, "ConditionExpression": absent}
        try:
            await self._api.call("PutItem", payload)
        except Exception as error:
            if isinstance(error, DynamoDBError) and error.code == "ConditionalCheckFailedException":
                return False
            raise self._translate(error) from error
        return True

    async def check(self) -> None:
        """Raise `ServiceFault` unless the table can be read."""
        outcome = (await self.read(["1"]))["1"]
        if isinstance(outcome, Exception):
            raise self._fault(outcome)

    async def _read_into(self, outcomes: dict[str, Outcome], ids: Sequence[str]) -> None:
        """Fill `outcomes`, asking again for what could not be read, with full jitter between the calls."""
        unread = list(ids)
        problem: Exception = Unavailable(BUSY)
        for attempt in range(MAX_CALLS):
            if attempt:
                await asyncio.sleep(BACKOFF_S * 2**attempt * random.random())
            try:
                found, unprocessed = await self._batch_get(unread)
            except Exception as error:
                if _is_refused_key(error) and len(unread) > 1:
                    middle = len(unread) // 2
                    await asyncio.gather(
                        *(self._read_half(outcomes, half) for half in (unread[:middle], unread[middle:]))
                    )
                    return
                if not _may_pass(error):
                    raise
                self.numbers.errors[error.code if isinstance(error, DynamoDBError) else type(error).__name__] += 1
                problem = error
                continue
            outcomes.update(found)
            if len(found) + len(unprocessed) < len(unread):
                outcomes.update((key, None) for key in unread if key not in found and key not in unprocessed)
            if not unprocessed:
                return
            self.numbers.errors["UnprocessedKeys"] += 1
            unread = list(unprocessed)
        raise problem

    async def _read_half(self, outcomes: dict[str, Outcome], ids: Sequence[str]) -> None:
        try:
            await self._read_into(outcomes, ids)
        except DynamoDBError as error:
            if not _is_refused_key(error):
                raise
            outcomes.update(dict.fromkeys(ids, error))

    async def _batch_get(self, ids: Sequence[str]) -> tuple[dict[str, Outcome], set[str]]:
        request = {"RequestItems": {self.name: {"Keys": [{KEY_ATTRIBUTE: {"S": key}} for key in ids]}}}
        started = time.perf_counter()
        try:
            response = await self._api.call("BatchGetItem", request)
        finally:
            seconds = time.perf_counter() - started
            self.numbers.call_seconds += seconds
            self.numbers.call_counts[bisect_left(CALL_BOUNDS_S, seconds)] += 1
        try:
            found = {row[KEY_ATTRIBUTE]["S"]: _balance(row) for row in response["Responses"].get(self.name, ())}
            unprocessed = response.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", ())
            return found, {key[KEY_ATTRIBUTE]["S"] for key in unprocessed}
        except (AttributeError, KeyError, TypeError) as error:
            raise Garbage("an answer without Responses") from error

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, DynamoDBError) and error.busy:
            return Unavailable(BUSY)
        if _may_pass(error) and not (isinstance(error, DynamoDBError) and error.not_allowed):
            return Unavailable("the database did not answer in time; try again")
        return error

    def _fault(self, error: Exception) -> ServiceFault:
        if isinstance(error, DynamoDBError) and error.code == "ResourceNotFoundException":
            return ServiceFault(f"table {self.name} does not exist", "deploy the stack, or set DDB_TABLE right")
        if isinstance(error, NoCredentials | BotoCoreError) or (isinstance(error, DynamoDBError) and error.not_allowed):
            reason = error.code if isinstance(error, DynamoDBError) else type(error).__name__
            return ServiceFault(
                f"AWS refuses to let this task read table {self.name} ({reason})",
                "give it credentials that may (aws sts get-caller-identity tells whose it has)",
            )
        if isinstance(error, Unavailable):
            return ServiceFault(f"table {self.name}: {error}", "see that DynamoDB can be reached from here")
        return ServiceFault(f"table {self.name} cannot be read: {error}", "see that its key is a string named id")


def _may_pass(error: Exception) -> bool:
    """Whether the next call may go well."""
    if isinstance(error, DynamoDBError):
        return error.away
    return isinstance(error, HttpError | Garbage | TimeoutError)


def _is_refused_key(error: Exception) -> bool:
    return isinstance(error, DynamoDBError) and error.code == "ValidationException"


def _balance(row: Mapping[str, Any]) -> Outcome:
    try:
        return int(row[BALANCE_ATTRIBUTE]["N"])
    except (KeyError, ValueError) as error:
        return ValueError(f"row has no integer {BALANCE_ATTRIBUTE}: {error}")
