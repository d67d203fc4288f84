"""Concurrent look-ups that are waiting at the same time share one BatchGetItem.

A call leaves at the end of the event loop's turn in which it was asked for while few calls are in flight, so no
timer delays a lone request; what arrives while they are out forms the next batch. A full batch leaves at once, and
none waits longer than `MAX_WAIT_S` for calls that do not come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

Waiter = TypeVar("Waiter")
Outcome = int | None | Exception
"""A balance; None, there is no such client; or why it could not be had."""

Read = Callable[[Sequence[str]], Awaitable[Mapping[str, Outcome]]]
Deliver = Callable[[str, Outcome, Sequence[Waiter]], Awaitable[None]]

MAX_KEYS: Final = 100
"""BatchGetItem's limit: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html"""

EAGER_CALLS: Final = 4
"""While fewer are in flight, a batch leaves however small it is."""

MAX_WAIT_S: Final = 0.05
"""Several times what a call usually takes."""


class Lookup(Generic[Waiter]):
    """Calls `deliver(key, outcome, waiters)` once for each distinct key of a batch, with everyone who asked for it.

    A request that arrives after a batch left never shares its answer: what it gets was read after it asked.
    """

    def __init__(self, read: Read, deliver: Deliver[Waiter], *, max_keys: int = MAX_KEYS) -> None:
        self._read = read
        self._deliver = deliver
        self._max_keys = max_keys
        self._forming: dict[str, list[Waiter]] = {}
        self._leaving = False
        self._overdue: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def find(self, key: str, waiter: Waiter) -> None:
        """Have `waiter` delivered the outcome for `key`."""
        waiters = self._forming.get(key)
        if waiters is not None:
            waiters.append(waiter)
            return
        self._forming[key] = [waiter]
        if len(self._forming) >= self._max_keys:
            self._start(self._call(self._take()))
        elif self._leaving or self._overdue:
            pass
        elif len(self._calls) < EAGER_CALLS:
            self._leave()
        else:
            self._overdue = self._loop.call_later(MAX_WAIT_S, self._leave)

    @property
    def calls_in_flight(self) -> int:
        return len(self._calls)

    async def drain(self) -> None:
        """Return when every waiter so far has been delivered to."""
        while self._calls or self._forming:
            if self._calls:
                await asyncio.wait(self._calls)
            else:
                await asyncio.sleep(0)

    def _leave(self) -> None:
        self._leaving = True
        self._start(self._call_with_all())

    def _start(self, call: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._done)

    def _done(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._forming and not self._leaving and len(self._calls) < EAGER_CALLS:
            self._leave()

    async def _call_with_all(self) -> None:
        """Call with what is there when the loop gets to it, which is all that this turn brought."""
        self._leaving = False
        if self._forming:
            await self._call(self._take())

    def _take(self) -> dict[str, list[Waiter]]:
        """The batch, which takes no more waiters from here on."""
        if self._overdue:
            self._overdue.cancel()
            self._overdue = None
        batch, self._forming = self._forming, {}
        return batch

    async def _call(self, batch: dict[str, list[Waiter]]) -> None:
        try:
            outcomes = await self._read(list(batch))
        except Exception as error:  # one failing batch fails its own requests, all of them
            outcomes = dict.fromkeys(batch, error)
        for key, waiters in batch.items():
            await self._deliver(key, outcomes.get(key), waiters)
