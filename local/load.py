"""Send requests in a closed loop and check every reply, for the demonstration and the tests.

The benchmark measures speed; this checks that nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import nats.errors
import orjson
from nats.aio.client import Client
from nats.micro.request import ERROR_CODE_HEADER

from service.contracts import customer as contract
from service.customer.endpoints.balance import encode


@dataclass
class Tally:
    """The results of all requests: sent = balances + sum of errors + wrong."""

    sent: int = 0
    balances: int = 0
    wrong: list[str] = field(default_factory=list)
    """Replies that do not match their request."""
    errors: Counter[str] = field(default_factory=Counter)
    """Count by ADR-32 code, `timeout` or `no responders`."""


def request_for(client_id: str) -> bytes:
    return orjson.dumps({"client_id": client_id})


async def ask_all(
    clients: Iterable[Client],
    ids: Iterable[str],
    *,
    concurrency: int,
    expected: Mapping[str, int],
    timeout_s: float = 5.0,
    until: Callable[[], bool] = lambda: False,
) -> Tally:
    """Ask for each id, `concurrency` at a time over all `clients`, until all are asked or `until()` is true."""
    tally = Tally()
    remaining = iter(ids)
    pool = list(clients)

    async def worker(client: Client) -> None:
        for client_id in remaining:
            if until():
                return
            tally.sent += 1
            await _ask(client, client_id, expected, timeout_s, tally)

    async with asyncio.TaskGroup() as group:
        for number in range(concurrency):
            group.create_task(worker(pool[number % len(pool)]))
    return tally


async def _ask(client: Client, client_id: str, expected: Mapping[str, int], timeout_s: float, tally: Tally) -> None:
    try:
        reply = await client.request(contract.SUBJECT, request_for(client_id), timeout=timeout_s)
    except nats.errors.TimeoutError:
        tally.errors["timeout"] += 1
        return
    except nats.errors.NoRespondersError:
        tally.errors["no responders"] += 1
        return
    if reply.headers and ERROR_CODE_HEADER in reply.headers:
        tally.errors[reply.headers[ERROR_CODE_HEADER]] += 1
    elif reply.data.decode() == encode(expected[client_id]):
        tally.balances += 1
    else:
        tally.wrong.append(f"{client_id}: {reply.data!r}")
