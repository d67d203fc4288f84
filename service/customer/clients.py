"""Client look-ups, shared by the endpoints: concurrent requests share a BatchGetItem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from service.customer.store.lookup import BatchLoader
from service.dynamodb.table import Outcome, Table
from service.requests.burst import Burst
from service.runtime.telemetry.tracing import NoTracing, Tracing

Answer = Callable[[Burst, Sequence[str], Mapping[str, Outcome]], None]
"""Answer requests, given the client id that each asked for, and outcomes that include theirs."""


class Clients:
    """Two loaders: a strongly consistent read costs twice as much, and cannot share a call with other reads."""

    def __init__(self, table: Table, tracing: NoTracing | Tracing) -> None:
        self._shared = BatchLoader[str](tracing.read(table.read))
        self._consistent = BatchLoader[str](tracing.read(partial(table.read, consistent=True)))

    def load(self, burst: Burst, client_ids: Sequence[str], answer: Answer, *, consistent: bool = False) -> None:
        """Look up each request's client; call `answer` once for each group that is read together."""
        replies, burst.replies = burst.replies, ()

        def deliver(client_ids: Sequence[str], replies: Sequence[str], outcomes: Mapping[str, Outcome]) -> None:
            burst.looked_up(replies).attempt(answer, client_ids, outcomes)

        (self._consistent if consistent else self._shared).load(client_ids, replies, deliver)

    async def drain(self) -> None:
        """Return when every request so far has been answered."""
        await self._shared.drain()
        await self._consistent.drain()
