"""What clients do during a run, and what they write into the history."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import suppress

import nats.errors
import orjson
from nats.aio.client import Client

from local.load import request_for
from service.contracts import customer as contract
from tests.nemesis.checker.history import Balance, Created, History
from tests.support.ledger.adjusting import ask

ASK_S = 3.0
DOCUMENTED = frozenset({"404 NOT_FOUND", "503 UNAVAILABLE", "no answer", "no responders"})
"""What a requester may get in place of an answer, while something is broken (README, errors)."""


class Work:
    """Workers that go on until `closing` is set. Each request ends, with an answer or without."""

    def __init__(self, history: History, ids: list[str]) -> None:
        self.closing = asyncio.Event()
        self.right_s: list[float] = []
        """When right answers came, on the monotonic clock."""
        self._history = history
        self._ids = ids
        self._numbers = itertools.count()

    async def ask_for_balances(self, connection: Client, rate: float) -> None:
        """Ask at a steady rate, however slow the answers are."""
        async with asyncio.TaskGroup() as group:
            while not self.closing.is_set():
                group.create_task(self.balance(connection, random.choice(self._ids)))
                await asyncio.sleep(1 / rate)

    async def balance(self, connection: Client, client_id: str) -> str:
        """Ask for one, and note what comes; return its code."""
        code, data = await outcome(connection, contract.SUBJECT, request_for(client_id))
        if code == "OK":
            self._history.balances.append(Balance(client_id, orjson.loads(data)["balance"]))
            self.right_s.append(time.monotonic())
            return code
        self._history.unanswered[code] = self._history.unanswered.get(code, 0) + 1
        if code not in DOCUMENTED:
            self._history.odd_answers.append(f"balance of {client_id}: {code} {data!r}")
        return code

    async def create(self, connection: Client) -> None:
        """Create clients: each until it is answered, then read at once, then sometimes again."""
        while not self.closing.is_set():
            created = Created(f"n{next(self._numbers)}", f"Ann {random.randint(0, 10_000)}")
            self._history.created.append(created)
            body: dict[str, object] = {"client_id": created.client_id, "name": created.name}
            while not created.answers and not self.closing.is_set():
                await self._asked(connection, created, body)
            if created.answers:
                asked = orjson.dumps({"client_id": created.client_id, "consistent": True})
                code, data = await outcome(connection, contract.GET_SUBJECT, asked)
                if code == "OK":
                    created.read = orjson.loads(data)["name"]
                elif code == "404 NOT_FOUND" or code not in DOCUMENTED:
                    self._history.odd_answers.append(f"get of {created.client_id}: {code} {data!r}")
                if random.random() < 0.3:
                    await self._asked(connection, created, body)
                if random.random() < 0.3:
                    await self._ask_for_its_id(connection, created)

    async def _ask_for_its_id(self, connection: Client, created: Created) -> None:
        """Ask for another client of its id, and expect a conflict."""
        body = orjson.dumps({"client_id": created.client_id, "name": "Bob"})
        code, data = await outcome(connection, contract.CREATE_SUBJECT, body)
        if code not in DOCUMENTED | {"409 CONFLICT"}:
            self._history.odd_answers.append(f"second create of {created.client_id}: {code} {data!r}")

    async def _asked(self, connection: Client, created: Created, body: dict[str, object]) -> None:
        code, data = await outcome(connection, contract.CREATE_SUBJECT, orjson.dumps(body))
        if code == "OK":
            created.answers.append(data.decode())
        elif code not in DOCUMENTED:
            self._history.odd_answers.append(f"create of {created.client_id}: {code} {data!r}")
        else:
            await asyncio.sleep(0.05)

    def recovered_s(self, since_s: float) -> float | None:
        """Return the seconds from then to the next right answer."""
        return next((at_s - since_s for at_s in self.right_s if at_s >= since_s), None)


async def outcome(connection: Client, subject: str, payload: bytes) -> tuple[str, bytes]:
    """Return a reply's code (`OK` without an error) and body; `no answer` or `no responders` if there is none."""
    with suppress(nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError):
        try:
            return await ask(connection, subject, orjson.loads(payload), ASK_S)
        except nats.errors.NoRespondersError:
            return "no responders", b""
        except nats.errors.TimeoutError:
            return "no answer", b""
    return "no answer", b""
