"""The DynamoDB table: batched reads inside a deadline, and inserts that never overwrite.

aiodynamo signs, sends and classifies; credentials, region and endpoint come from botocore's chain, so profiles and
SSO work. Every error of either leaves here as an `Unavailable`, or as what it is when it is a fault to be logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import structlog
from aiodynamo.client import Client
from aiodynamo.credentials import Credentials, Key
from aiodynamo.errors import (
    AccessDenied,
    AIODynamoError,
    ConditionalCheckFailed,
    ExpiredToken,
    InternalDynamoError,
    MissingAuthenticationToken,
    NoCredentialsFound,
    ProvisionedThroughputExceeded,
    RequestLimitExceeded,
    ServiceUnavailable,
    TableNotFound,
    Throttled,
    UnknownError,
    UnrecognizedClient,
    ValidationException,
)
from aiodynamo.http.aiohttp import AIOHTTP
from aiodynamo.http.types import HttpImplementation, RequestFailed
from aiodynamo.models import RetryConfig, RetryTimeout
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.exceptions import BotoCoreError
from botocore.session import Session
from yarl import URL

from service.contract import BALANCE_ATTRIBUTE, KEY_ATTRIBUTE
from service.errors import ServiceFault, Unavailable
from service.lookup import Outcome

log: Final = structlog.get_logger("service.table")

DEADLINE_S: Final = 2.0
"""From a batch's first call to its last answer."""
CALL_TIMEOUT_S: Final = 0.9
MAX_CALLS: Final = 3
BACKOFF_S: Final = 0.05
CALL_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
BATCH_BOUNDS: Final = (1, 2, 5, 10, 25, 50, 100)


class _Garbage(Exception):
    """An answer that is not DynamoDB's."""


_BUSY: Final = (Throttled, ProvisionedThroughputExceeded, RequestLimitExceeded)
_AWAY: Final = (
    *_BUSY,
    InternalDynamoError,
    ServiceUnavailable,
    UnknownError,
    _Garbage,
    json.JSONDecodeError,
    RequestFailed,
    RetryTimeout,
    TimeoutError,
    aiohttp.ClientError,
    OSError,
)
_NOT_ALLOWED: Final = (
    AccessDenied,
    ExpiredToken,
    MissingAuthenticationToken,
    NoCredentialsFound,
    UnrecognizedClient,
    BotoCoreError,
)


@dataclass(slots=True)
class TableNumbers:
    errors: Counter[str] = field(default_factory=Counter)
    call_counts: list[int] = field(default_factory=lambda: [0] * (len(CALL_BOUNDS_S) + 1))
    call_seconds: float = 0.0
    batch_counts: list[int] = field(default_factory=lambda: [0] * (len(BATCH_BOUNDS) + 1))
    batch_keys: int = 0


@dataclass(frozen=True)
class _Once(RetryConfig):
    """One call: what is asked again, and how often, is for `Table` to say, which knows what is still unread."""

    def delays(self) -> Sequence[float]:
        return ()

    async def attempts(self) -> AsyncIterator[None]:
        yield
        raise RetryTimeout


class _Chain(Credentials):
    """botocore's credential chain. Its refreshes block, so they happen in a thread."""

    def __init__(self) -> None:
        self._credentials: BotocoreCredentials | None = None

    async def get_key(self, http: HttpImplementation) -> Key | None:  # noqa: ARG002
        if self._credentials is None:
            self._credentials = await asyncio.to_thread(lambda: Session().get_credentials())
        credentials = self._credentials
        if credentials is None:
            return None
        if getattr(credentials, "refresh_needed", bool)():
            frozen = await asyncio.to_thread(credentials.get_frozen_credentials)
        else:
            frozen = credentials.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            return None
        return Key(id=frozen.access_key, secret=frozen.secret_key, token=frozen.token)

    def invalidate(self) -> bool:
        self._credentials = None
        return True

    def is_disabled(self) -> bool:
        return False


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
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    ) as http:
        client = Client(
            AIOHTTP(http),
            _Chain(),
            region,
            endpoint=URL(endpoint) if endpoint else None,
            throttle_config=_Once(),
        )
        yield Table(client, name)


class Table:
    """Reads and inserts balances. Use `open_table`."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self.numbers = TableNumbers()
        self._client = client

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
            await self._client.send_request(action="PutItem", payload=payload)
        except ConditionalCheckFailed:
            return False
        except Exception as error:
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
        problem: Exception = Throttled()
        for attempt in range(MAX_CALLS):
            if attempt:
                await asyncio.sleep(BACKOFF_S * 2**attempt * random.random())
            try:
                found, unprocessed = await self._batch_get(unread)
            except ValidationException:
                if len(unread) == 1:
                    raise
                middle = len(unread) // 2
                await asyncio.gather(*(self._read_half(outcomes, half) for half in (unread[:middle], unread[middle:])))
                return
            except (*_AWAY, ExpiredToken) as error:
                self.numbers.errors[type(error).__name__] += 1
                problem = error
                continue
            outcomes.update(found)
            outcomes.update((key, None) for key in unread if key not in found and key not in unprocessed)
            if not unprocessed:
                return
            self.numbers.errors["UnprocessedKeys"] += 1
            unread = list(unprocessed)
        raise problem

    async def _read_half(self, outcomes: dict[str, Outcome], ids: Sequence[str]) -> None:
        try:
            await self._read_into(outcomes, ids)
        except ValidationException as error:
            outcomes.update(dict.fromkeys(ids, self._translate(error)))

    async def _batch_get(self, ids: Sequence[str]) -> tuple[dict[str, Outcome], set[str]]:
        # BatchGetItem's own JSON: aiodynamo's batch_get would convert each item to its own form and back.
        request = {
            "Keys": [{KEY_ATTRIBUTE: {"S": key}} for key in ids],
            "ProjectionExpression": f"{KEY_ATTRIBUTE},{BALANCE_ATTRIBUTE}",
        }
        started = time.perf_counter()
        try:
            response = await self._client.send_request(
                action="BatchGetItem", payload={"RequestItems": {self.name: request}}
            )
        finally:
            seconds = time.perf_counter() - started
            self.numbers.call_seconds += seconds
            self.numbers.call_counts[bisect_left(CALL_BOUNDS_S, seconds)] += 1
        try:
            found = {row[KEY_ATTRIBUTE]["S"]: _balance(row) for row in response["Responses"].get(self.name, ())}
            unprocessed = response.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", ())
            return found, {key[KEY_ATTRIBUTE]["S"] for key in unprocessed}
        except (AttributeError, KeyError, TypeError) as error:
            raise _Garbage from error

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, _BUSY):
            return Unavailable("the database is busy; try again")
        if isinstance(error, _AWAY):
            return Unavailable("the database did not answer in time; try again")
        return error

    def _fault(self, error: Exception) -> ServiceFault:
        if isinstance(error, TableNotFound):
            return ServiceFault(f"table {self.name} does not exist", "deploy the stack, or set DDB_TABLE right")
        if isinstance(error, _NOT_ALLOWED):
            reason = type(error).__name__
            return ServiceFault(
                f"AWS refuses to let this task read table {self.name} ({reason})",
                "give it credentials that may (aws sts get-caller-identity tells whose it has)",
            )
        if isinstance(error, Unavailable):
            return ServiceFault(f"table {self.name}: {error}", "see that DynamoDB can be reached from here")
        return ServiceFault(f"table {self.name} cannot be read: {error}", "see that its key is a string named id")


def _balance(row: Mapping[str, Any]) -> Outcome:
    try:
        return int(row[BALANCE_ATTRIBUTE]["N"])
    except (KeyError, ValueError) as error:
        return ValueError(f"row has no integer {BALANCE_ATTRIBUTE}: {error}")


def describe(error: Exception) -> str:
    """An AWS error in words; aiodynamo's own `str` is the raw body."""
    body = error.args[0] if isinstance(error, AIODynamoError) and error.args else None
    message = body.get("message") or body.get("Message") if isinstance(body, dict) else None
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
