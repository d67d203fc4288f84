"""Tills on the real engine, with calls that fail before or after they were executed, and what requesters are told."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from service.customer.endpoints.adjust import encode
from service.customer.ledger.decide import Adjustment, Entry
from service.customer.ledger.failures import CANCELLED
from service.customer.ledger.tables import Ledger
from service.customer.ledger.tills import Tills, Timing, Waiting
from service.dynamodb.errors import DynamoDBError, HttpError
from service.dynamodb.table import Table
from service.requests.burst import Burst
from tests.support.dynamodb.table import open_table
from tests.support.world import World

QUICK = Timing(backoff_s=0.001, conflict_s=0.001)

Asked = tuple[str, str, int]
"""Client, adjustment, points."""


class Shaky(Ledger):
    """A ledger whose calls fail as a test wants them to, one after the other; at most three in a row."""

    def __init__(self, table: Table, adjustments: str, prefix: str, faults: Sequence[str]) -> None:
        super().__init__(table.name, adjustments)
        self.table = table
        self.prefix = prefix
        """Keeps an example's clients apart from the others'."""
        self.sizes: list[int] = []
        self._faults = iter(faults)

    async def _call(self, action: str, body: dict[str, Any] | bytes, deadline: float) -> dict[str, Any]:
        fault = next(self._faults, "")
        if fault == "before":
            raise HttpError("the connection was lost")
        if fault == "throttled":
            raise DynamoDBError(400, "ThrottlingException", "")
        if fault == "conflict" and action == "TransactWriteItems":
            raise DynamoDBError(400, CANCELLED, "", ["TransactionConflict", "None"])
        if fault == "in progress" and action == "TransactWriteItems":
            raise DynamoDBError(400, "TransactionInProgressException", "")
        answer = await super()._call(action, body, deadline)
        if isinstance(body, bytes):
            self.sizes.append(len(orjson.loads(body)["TransactItems"]))
        if fault == "after":
            raise TimeoutError
        return answer


class Desk:
    """Asks tills, and keeps what each request was told, in the order of asking."""

    def __init__(self, ledger: Shaky) -> None:
        self._ledger = ledger
        self.told: dict[int, str] = {}
        self.news: list[tuple[str, bool]] = []
        self.tills = Tills(ledger, self._made, partial(ledger.table.read, consistent=True), timing=QUICK)
        self._numbers = itertools.count()

    def ask(self, burst: Sequence[Asked], *, deadline_s: float = 20) -> None:
        """Ask all at once. The usual deadline suits a busy machine too: the rows decide each answer."""
        self.tills._timing = replace(QUICK, deadline_s=deadline_s)
        requests = [Burst([f"_INBOX.{next(self._numbers)}"], 0, self._post, lambda *_, **__: None) for _ in burst]
        made = [Adjustment(self._ledger.prefix + client, key, points, None) for client, key, points in burst]
        self.tills.add(zip(made, requests, strict=True))

    def answers(self, count: int) -> list[str]:
        return [self.told[number] for number in range(count)]

    def _made(self, waiting: Waiting, entry: Entry, is_new: bool, _: bool) -> None:
        self.news.append((entry.adjustment_id, is_new))
        if entry.adjustment_id == "defect":
            raise ZeroDivisionError
        waiting.request.respond([encode(waiting.adjustment.client_id.removeprefix(self._ledger.prefix), entry)])

    def _post(self, frames: str, _sizes: Sequence[int]) -> None:
        head, _, rest = frames.partition("\r\n")
        number = int(head.split()[1].removeprefix("_INBOX."))
        assert number not in self.told, "each is answered once"
        self.told[number] = rest.partition("\r\n\r\n")[2].strip() or rest.strip()


@asynccontextmanager
async def shaky(world: World, script: Sequence[str], prefix: str) -> AsyncIterator[Shaky]:
    async with open_table(world.table) as table:
        ledger = Shaky(table, world.adjustments, prefix, script)
        ledger.open()
        yield ledger
        ledger.close()
