"""Read the table of readings page by page: the next page is read only when the last one is consumed.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Pagination.html
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from service.contracts import devices as contract
from service.devices.query.row import OtherForm, Reading, reading_of
from service.dynamodb.client import DynamoDB
from service.dynamodb.errors import InvalidResponse, classify, is_retryable, kind, reason
from service.dynamodb.explain import explain
from service.dynamodb.table import CALL_TIMEOUT_S, DEADLINE_S, backoff_s

PAGE_ROWS: Final = 250
"""Rows per call, some 80 KB in memory. Without this limit, DynamoDB would send up to 1 MB."""
PAGE_S: Final = 15.0
"""Seconds from a page's first call to its last answer: a throttled table gets time to scale."""
BACKOFF_MAX_S: Final = 2.0
LAST_ROWS: Final = 10
"""Newest rows in which to look for the last reading: some may not be readings."""

_STREAMED: Final = (contract.PARTITION_KEY, "epoch", "temp", "rh", "entry_id", "facility")
"""Attributes that a stream reads: the others may be long, a sensor's name up to 4 KB."""

Page = tuple[Sequence[Reading], dict[str, Any] | None]
"""Readings, and the key to continue from; None on the last page."""


class Readings:
    """The table of readings, for reading only. Call `open` first.

    Reads are eventually consistent, at half the price: a row written within the last second may be missing. Each method
    raises `TableUnavailableError` if the table does not answer in time, and other errors unchanged.
    """

    def __init__(self, table: str) -> None:
        self.name = table
        self.errors: Counter[str] = Counter()
        """Failed calls, by DynamoDB's code or the error's class."""
        self.skipped = 0
        """Rows read that are not readings."""
        self.problem: str | None = None
        """Why the last call failed; None if it did not."""
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

    async def check(self) -> None:
        """Raise `ServiceError` unless the table has its keys, and may be read by Query and by Scan."""
        try:
            await self._page("Query", {**self._between("-", 1, 0), "Limit": 1}, PAGE_S)
            await self._page("Scan", {"Limit": 1}, PAGE_S)
        except Exception as error:
            keys = f"{contract.PARTITION_KEY} and {contract.SORT_KEY} (S)"
            raise explain(error, self.name, "DEVICES_TABLE", f"see that it has the keys {keys}") from error

    async def last(self, device: str) -> Reading | None:
        """Return the device's newest reading by its own clock; None if it has none."""
        newest = {**self._between(device, 0, 0), "ScanIndexForward": False, "Limit": LAST_ROWS}
        readings, _ = await self._page("Query", newest, DEADLINE_S)
        return readings[0] if readings else None

    def range(
        self, device: str, start: int, end: int, limit: int, newest_first: bool
    ) -> AsyncIterator[Sequence[Reading]]:
        """Yield pages of a device's readings from second `start` to before `end` (0: no end), in order of time.

        `limit` is the maximum number of readings; 0 means all.
        """
        request = {**self._between(device, start, end), "ScanIndexForward": not newest_first}
        return self._pages("Query", request, limit)

    def scan(self) -> AsyncIterator[Sequence[Reading]]:
        """Yield every reading of the table in pages, in no order."""
        return self._pages("Scan", {}, 0)

    async def _pages(self, action: str, request: dict[str, Any], limit: int) -> AsyncIterator[Sequence[Reading]]:
        left, start = limit, dict[str, Any]()
        names = {f"#{number}": name for number, name in enumerate(_STREAMED)}
        request["ProjectionExpression"] = ", ".join(names)
        request["ExpressionAttributeNames"] = {**request.get("ExpressionAttributeNames", {}), **names}
        while True:
            size = min(PAGE_ROWS, left) if limit else PAGE_ROWS
            readings, key = await self._page(action, {**request, **start, "Limit": size}, PAGE_S)
            yield readings
            left -= len(readings)
            if key is None or (limit and not left):
                return
            start = {"ExclusiveStartKey": key}

    def _between(self, device: str, start: int, end: int) -> dict[str, Any]:
        """Return the condition of a Query. A key is the epoch in twelve digits and a suffix, so none equals `end`."""
        condition, values = "#d = :d", {":d": {"S": device}}
        names = {"#d": contract.PARTITION_KEY}
        if start or end:
            names["#r"] = contract.SORT_KEY
            values[":s"] = {"S": f"{start:012d}"}
            condition += " AND #r BETWEEN :s AND :e" if end else " AND #r >= :s"
        if end:
            values[":e"] = {"S": f"{end:012d}"}
        return {
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
        }

    async def _page(self, action: str, request: dict[str, Any], within_s: float) -> Page:
        """Read a page; retry with full jitter while it may succeed. Raise the last error, classified."""
        clock = asyncio.get_running_loop().time
        deadline, attempt = clock() + within_s, 0
        while True:
            try:
                response = await self._api.call(action, {"TableName": self.name, **request}, deadline)
                page = self._parsed(response, request)
            except Exception as error:
                attempt += 1
                self.errors[kind(error)] += 1
                wait_s = min(BACKOFF_MAX_S, backoff_s(attempt))
                if not is_retryable(error) or clock() + wait_s >= deadline:
                    failure = classify(error)
                    self.problem = reason(failure)
                    raise failure from error
            else:
                self.problem = None
                return page
            await asyncio.sleep(wait_s)

    def _parsed(self, response: dict[str, Any], request: dict[str, Any]) -> Page:
        try:
            rows, key = response["Items"], response.get("LastEvaluatedKey")
            _check(rows, key, request)
            return self._readings(rows), key
        except InvalidResponse:
            self._api.distrust()
            raise
        except (AttributeError, KeyError, TypeError) as error:
            self._api.distrust()
            raise InvalidResponse("a response without Items") from error

    def _readings(self, rows: Sequence[Any]) -> list[Reading]:
        readings = list[Reading]()
        for row in rows:
            try:
                readings.append(reading_of(row))
            except OtherForm:
                self.skipped += 1
        return readings


def _check(rows: Sequence[Any], key: Any, request: dict[str, Any]) -> None:
    """Raise `InvalidResponse` unless this may be the response to the request."""
    device = request.get("ExpressionAttributeValues", {}).get(":d", {}).get("S")
    if device is not None and any(row[contract.PARTITION_KEY]["S"] != device for row in rows):
        raise InvalidResponse("rows of keys that were not asked for")
    if key is not None and key == request.get("ExclusiveStartKey"):
        raise InvalidResponse("a page that ends where it began")
