"""Look-ups that wait at the same time share one BatchGetItem.

| calls in flight | what a new key does |
| --- | --- |
| fewer than `EAGER_CALLS` | starts a call at the end of this turn of the event loop, with all that the turn brought |
| more | waits for a call to end, for the batch to be full, or for `MAX_WAIT_S`, whichever is first |

So no timer delays a lone request, and none waits long for calls that do not come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import structlog

from service.dynamodb.table import MAX_KEYS, Give, Outcome
from service.runtime.logs import Repeated

log: Final = structlog.get_logger("service.lookup")
_failed: Final = Repeated(log, "delivery failed")
Waiter = TypeVar("Waiter")

Read = Callable[[Sequence[str], Give], Awaitable[None]]
"""Gives each key's outcome once, in as many parts as it comes in."""
Deliver = Callable[[str, Outcome, Sequence[Waiter]], Awaitable[None]]

EAGER_CALLS: Final = 4
"""While fewer are in flight, a batch is dispatched however small it is."""

MAX_WAIT_S: Final = 0.05
"""Several times what a call usually takes."""


class BatchLoader(Generic[Waiter]):
    """Calls `deliver(key, outcome, waiters)` once for each distinct key of a batch, with everyone who asked for it.

    A request that arrives after a batch was dispatched never shares its answer: what it gets was read after it asked.
    """

    def __init__(self, read: Read, deliver: Deliver[Waiter], *, max_keys: int = MAX_KEYS) -> None:
        self._read = read
        self._deliver = deliver
        self._max_keys = max_keys
        self._batch: dict[str, list[Waiter]] = {}
        """The batch that is forming."""
        self._dispatching = False
        """A call is about to take the batch, in this turn of the event loop."""
        self._timer: asyncio.TimerHandle | None = None
        """Dispatches the batch when no call ends in time."""
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def load(self, key: str, waiter: Waiter) -> None:
        """Queue `key`; `deliver` is called with its outcome and `waiter`."""
        waiters = self._batch.get(key)
        if waiters is not None:
            waiters.append(waiter)
            return
        self._batch[key] = [waiter]
        if len(self._batch) >= self._max_keys:
            self._start(self._call(self._take()))
        elif self._dispatching or self._timer:
            pass
        elif len(self._calls) < EAGER_CALLS:
            self._dispatch()
        else:
            self._timer = self._loop.call_later(MAX_WAIT_S, self._dispatch)

    async def drain(self) -> None:
        """Return when every waiter so far has been delivered to."""
        while self._calls or self._batch:
            if self._calls:
                await asyncio.wait(self._calls)
            else:
                await asyncio.sleep(0)

    def _dispatch(self) -> None:
        self._dispatching = True
        self._start(self._call_with_all())

    def _start(self, call: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._done)

    def _done(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._batch and not self._dispatching and len(self._calls) < EAGER_CALLS:
            self._dispatch()

    async def _call_with_all(self) -> None:
        """Call with what is there when the loop gets to it, which is all that this turn brought."""
        self._dispatching = False
        if self._batch:
            await self._call(self._take())

    def _take(self) -> dict[str, list[Waiter]]:
        """The batch, which takes no more waiters from here on."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        batch, self._batch = self._batch, {}
        return batch

    async def _call(self, batch: dict[str, list[Waiter]]) -> None:
        async def give(outcomes: Mapping[str, Outcome]) -> None:
            for key, outcome in outcomes.items():
                await self._give(key, outcome, batch.pop(key))

        try:
            await self._read(list(batch), give)
        except Exception as error:  # one failing batch fails its own requests, those that are left
            for key, waiters in batch.items():
                await self._give(key, error, waiters)

    async def _give(self, key: str, outcome: Outcome, waiters: Sequence[Waiter]) -> None:
        try:
            await self._deliver(key, outcome, waiters)
        except Exception as error:  # one key's failure is not the others'
            _failed.error(type(error).__name__, key=key, exc_info=error)
