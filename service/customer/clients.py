"""Look-ups of clients, shared by the endpoints: who asks at the same time shares a BatchGetItem."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import structlog

from service.customer.lookup import BatchLoader
from service.customer.request import Request
from service.dynamodb.table import Outcome, Table
from service.runtime.logs import Repeated
from service.runtime.tracing import NoTracing, Tracing

_failed: Final = Repeated(structlog.get_logger("service.customer"), "delivery failed")

Answer = Callable[[str, Outcome, Sequence[Request]], Awaitable[None]]
"""Replies to the requests of one endpoint that asked for one client."""
Waiter = tuple[Answer, Request]


class Clients:
    """A strongly consistent read costs twice as much and cannot share a call with the others: it has batches apart."""

    def __init__(self, table: Table, tracing: NoTracing | Tracing) -> None:
        self._shared = BatchLoader[Waiter](tracing.read(table.read), _deliver)
        self._consistent = BatchLoader[Waiter](tracing.read(partial(table.read, consistent=True)), _deliver)

    def load(self, client_id: str, request: Request, answer: Answer, *, consistent: bool = False) -> None:
        """Look the client up; `answer` is called with the outcome and all its requests."""
        (self._consistent if consistent else self._shared).load(client_id, (answer, request))

    async def drain(self) -> None:
        """Return when every request so far has been answered."""
        await self._shared.drain()
        await self._consistent.drain()


async def _deliver(client_id: str, outcome: Outcome, waiters: Sequence[Waiter]) -> None:
    requests: dict[Answer, list[Request]] = {}
    for answer, request in waiters:
        requests.setdefault(answer, []).append(request)
    for answer, asked in requests.items():
        try:
            await answer(client_id, outcome, asked)
        except Exception as error:  # one endpoint's failure is not the other's
            _failed.error(type(error).__name__, client_id=client_id, exc_info=error)
