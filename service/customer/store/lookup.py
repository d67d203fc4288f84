"""Look-ups that wait at the same time share one BatchGetItem.

| calls in flight | what a new key does |
| --- | --- |
| fewer than `EAGER_CALLS` | starts a call at the end of this turn of the event loop, with all keys of the turn |
| more | waits for a call to end, for the batch to be full, or for `MAX_WAIT_S`, whichever is first |

So no timer delays a lone request, and no request waits long for calls that do not return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from service.dynamodb.table import MAX_KEYS, Give, Outcome

Waiter = TypeVar("Waiter")

Read = Callable[[Sequence[str], Give], Awaitable[None]]
"""Read keys, and give each key's outcome once, in one part or several."""
Deliver = Callable[[Sequence[str], Sequence[Waiter], Mapping[str, Outcome]], None]
"""Deliver outcomes, which include those of the keys, to each key's waiter. Must not raise."""
Group = tuple[Sequence[str], Sequence[Waiter], Deliver[Waiter]]
"""Keys that arrived together, each with its waiter."""

EAGER_CALLS: Final = 4
"""While fewer are in flight, a batch is dispatched however small it is."""

MAX_WAIT_S: Final = 0.05
"""Seconds; several times as long as a call usually takes."""


class _Batch(Generic[Waiter]):
    __slots__ = ("groups", "keys")

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self.groups: list[Group[Waiter]] = []

    def add(self, keys: Sequence[str], waiters: Sequence[Waiter], deliver: Deliver[Waiter], max_keys: int) -> int:
        """Add as many keys as there is room for; return how many."""
        together = self.keys | dict.fromkeys(keys)
        if len(together) > max_keys:
            together = dict(self.keys)
            for count, key in enumerate(keys):
                if len(together) == max_keys and key not in together:
                    keys, waiters = keys[:count], waiters[:count]
                    break
                together[key] = None
        self.keys = together
        if keys:
            self.groups.append((keys, waiters, deliver))
        return len(keys)


class BatchLoader(Generic[Waiter]):
    """Calls `deliver` with a batch's outcomes, once for each group of keys that arrived together.

    A request that arrives after a batch was dispatched never shares its answer: it gets data read after it arrived.
    """

    def __init__(self, read: Read, *, max_keys: int = MAX_KEYS) -> None:
        self._read = read
        self._max_keys = max_keys
        self._batch = _Batch[Waiter]()
        """The batch that is forming."""
        self._dispatching = False
        """Whether a call is about to take the batch, in this turn of the event loop."""
        self._timer: asyncio.TimerHandle | None = None
        """Dispatches the batch when no call ends in time."""
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def load(self, keys: Sequence[str], waiters: Sequence[Waiter], deliver: Deliver[Waiter]) -> None:
        """Queue each key with its waiter. `deliver` is called for all of them, once for each part that is read."""
        while keys:
            taken = self._batch.add(keys, waiters, deliver, self._max_keys)
            keys, waiters = keys[taken:], waiters[taken:]
            if len(self._batch.keys) >= self._max_keys:
                self._start(self._call(self._take()))
        if not self._batch.keys or self._dispatching or self._timer:
            return
        if len(self._calls) < EAGER_CALLS:
            self._dispatch()
        else:
            self._timer = self._loop.call_later(MAX_WAIT_S, self._dispatch)

    async def drain(self) -> None:
        """Return when every waiter so far has its outcome."""
        while self._calls or self._batch.keys:
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
        if self._batch.keys and not self._dispatching and len(self._calls) < EAGER_CALLS:
            self._dispatch()

    async def _call_with_all(self) -> None:
        """Read the batch as it is when the loop runs this task: with all keys of the turn."""
        self._dispatching = False
        if self._batch.keys:
            await self._call(self._take())

    def _take(self) -> _Batch[Waiter]:
        """Return the batch; later keys form a new one."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        batch, self._batch = self._batch, _Batch()
        return batch

    async def _call(self, batch: _Batch[Waiter]) -> None:
        try:
            await self._read(list(batch.keys), lambda outcomes: _give(batch, outcomes))
        except Exception as error:  # a failing call fails only the requests left in its batch
            _give(batch, dict.fromkeys(batch.keys, error))


def _give(batch: _Batch[Waiter], outcomes: Mapping[str, Outcome]) -> None:
    """Deliver outcomes to their waiters; the other waiters stay in the batch."""
    groups, batch.groups = batch.groups, []
    batch.keys = {key: None for key in batch.keys if key not in outcomes} if len(outcomes) < len(batch.keys) else {}
    for keys, waiters, deliver in groups:
        if batch.keys and (left := [number for number, key in enumerate(keys) if key in batch.keys]):
            batch.groups.append(([keys[number] for number in left], [waiters[number] for number in left], deliver))
            here = [number for number, key in enumerate(keys) if key in outcomes]
            if here:
                deliver([keys[number] for number in here], [waiters[number] for number in here], outcomes)
        else:
            deliver(keys, waiters, outcomes)
