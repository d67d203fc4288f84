"""Read a whole table with several scans at a time.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Scan.html#Scan.ParallelScan
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from service.dynamodb.client import DynamoDB
from service.dynamodb.errors import is_retryable
from service.dynamodb.explain import explain
from service.dynamodb.table import Row

PROGRESS_S: Final = 1.0
BACKOFF_MAX_S: Final = 5.0
PAGE_ROWS: Final = 5_000
"""Most rows in a page: progress shows, and the local engine, without a limit, reads the whole rest of the table."""
PATIENCE_S: Final = 60.0
"""The scan ends if a page cannot be read for this long."""

Take = Callable[[Sequence[Row]], None]


@dataclass
class Progress:
    """Shows once a second, on standard error, how many rows were read, if that is a terminal."""

    shown: bool = field(default_factory=sys.stderr.isatty)
    rows: int = 0
    _began_s: float = field(default_factory=time.monotonic)
    _last_s: float = 0.0

    def read(self, what: str, rows: int) -> None:
        self.rows += rows
        now = time.monotonic()
        if self.shown and now - self._last_s >= PROGRESS_S:
            self._last_s = now
            rate = self.rows / max(now - self._began_s, 1e-9)
            print(f"\r{what}: {self.rows:,} rows read, {rate:,.0f} rows/s ", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.shown and self._last_s:
            print(file=sys.stderr)


async def scan(
    api: DynamoDB,
    table: str,
    variable: str,
    take: Take,
    progress: Progress,
    *,
    segments: int,
    only: Sequence[str] = (),
) -> None:
    """Pass each row of a table to `take`, a page at a time. Each row is read consistently, when its page is read.

    `variable` is the environment variable with the table's name; `only` lists the attributes to read, if not all.
    Raises `ServiceError` if it cannot be read.
    """

    async def segment(number: int) -> None:
        body: dict[str, Any] = {"TableName": table, "ConsistentRead": True, "Limit": PAGE_ROWS}
        if only:
            names = {f"#{place}": name for place, name in enumerate(only)}
            body |= {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
        if segments > 1:
            body |= {"Segment": number, "TotalSegments": segments}
        while True:
            page = await call(api, "Scan", body, table, variable)
            take(page["Items"])
            progress.read(table, len(page["Items"]))
            if "LastEvaluatedKey" not in page:
                return
            body["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    scans = [asyncio.create_task(segment(number)) for number in range(segments)]
    try:
        await asyncio.gather(*scans)
    finally:
        for each in scans:
            each.cancel()


async def call(api: DynamoDB, action: str, body: dict[str, Any], table: str, variable: str) -> dict[str, Any]:
    """Make a read; repeat it for up to `PATIENCE_S` seconds while it may succeed. Raises `ServiceError`."""
    began_s = time.monotonic()
    wait_s = 0.05
    while True:
        try:
            return await api.call(action, body)
        except Exception as error:
            if not is_retryable(error) or time.monotonic() - began_s > PATIENCE_S:
                raise explain(error, table, variable, "see that it is the service's table") from error
        await asyncio.sleep(wait_s * random.random())
        wait_s = min(BACKOFF_MAX_S, 2 * wait_s)
