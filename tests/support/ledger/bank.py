"""A bank: tellers that transfer points between clients, and what each adjustment was answered with."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client

from tests.support.ledger.adjusting import adjust

OPENING = 100


@dataclass
class Bank:
    """Tellers that transfer points, and what each adjustment was answered with."""

    clients: list[str]
    answers: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By client and adjustment."""
    odd: list[str] = field(default_factory=list)
    """Answers that must not be."""
    counts: Counter[str] = field(default_factory=Counter)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def teller(self, connection: Client) -> None:
        """Transfer points, each time by two adjustments with ids of the transfer; repeat each until it is answered."""
        while not self.closing.is_set():
            payer, payee = random.sample(self.clients, 2)
            points, transfer = random.randint(1, OPENING), uuid.uuid4().hex
            if await self._settle(connection, payer, -points, f"{transfer}-out"):
                await self._settle(connection, payee, points, f"{transfer}-in")
                self.counts["transfers"] += 1

    async def _settle(self, connection: Client, client_id: str, points: int, adjustment_id: str) -> bool:
        """Return False if the balance is less than that."""
        while True:
            code, body = await self._ask(connection, client_id, points, adjustment_id)
            if code == "OK":
                break
            if code == "409 INSUFFICIENT_BALANCE" and points < 0:
                return False
            if code not in {"503 UNAVAILABLE", "no answer", "no responders"}:
                self.odd.append(f"{code} {body!r}")
                return False
            self.counts[code] += 1
            await asyncio.sleep(random.random() * 0.2)
        self.answers[client_id, adjustment_id] = body
        while random.random() < 0.2:
            code, again = await self._ask(connection, client_id, points, adjustment_id)
            if code == "OK" and again != body:
                self.odd.append(f"{body!r}, and then {again!r}")
            self.counts["repeats"] += code == "OK"
        return True

    async def _ask(self, connection: Client, client_id: str, points: int, adjustment_id: str) -> tuple[str, bytes]:
        try:
            return await adjust(connection, client_id, points, adjustment_id, timeout_s=3)
        except nats.errors.NoRespondersError:
            return "no responders", b""
        except nats.errors.TimeoutError:
            return "no answer", b""
