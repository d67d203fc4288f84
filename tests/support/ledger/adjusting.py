"""Requests for adjustments, and the balance that a client's statement adds up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from nats.aio.client import Client

from service.contracts import customer as contract


async def adjust(
    client: Client, client_id: str, points: int, adjustment_id: str, timeout_s: float = 5, **more: Any
) -> tuple[str, bytes]:
    """Return the reply's code and description (`OK` if it has none), and its bytes."""
    body = {"client_id": client_id, "points": points, "adjustment_id": adjustment_id, **more}
    return await ask(client, contract.ADJUST_SUBJECT, body, timeout_s)


async def ask(client: Client, subject: str, body: Any, timeout_s: float = 5) -> tuple[str, bytes]:
    reply = await client.request(subject, orjson.dumps(body), timeout=timeout_s)
    headers = reply.headers or {}
    code = f"{headers['Nats-Service-Error-Code']} {headers['Nats-Service-Error']}" if headers else "OK"
    return code, reply.data


async def statement(client: Client, client_id: str, limit: int = 100) -> list[dict[str, Any]]:
    """Return all of a client's adjustments, newest first."""
    found: list[dict[str, Any]] = []
    more: dict[str, int] = {}
    while True:
        code, data = await ask(client, contract.STATEMENT_SUBJECT, {"client_id": client_id, "limit": limit, **more})
        assert code == "OK", data
        page = orjson.loads(data)
        assert page["client_id"] == client_id
        found += page["adjustments"]
        if "before" not in page:
            return found
        assert len(page["adjustments"]) == limit
        more = {"before": page["before"]}


def follows(rows: Sequence[dict[str, Any]], opening: int) -> int:
    """Return the balance that a client's rows, oldest first, lead to from `opening`; each must follow from the last."""
    balance = opening
    for row in rows:
        balance += int(row["points"])
        assert int(row["balance"]) == balance >= 0, row
    return balance
