"""Answer each request in its own task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from service.requests.burst import Burst

Asked = TypeVar("Asked")


class Answering(Generic[Asked]):
    """A handler for requests that take time to answer."""

    def __init__(self, decode: Callable[[str], Asked], answer: Callable[[Asked], Awaitable[str]]) -> None:
        """Either may raise a `RequestError`, which is the reply; any other error is logged, and the reply is 500."""
        self._decode = decode
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, burst: Burst, payloads: Sequence[str]) -> None:
        asked = burst.each(self._decode, payloads)
        for request, what in zip(burst.singles(), asked, strict=True):
            task = asyncio.create_task(self._respond(request, what))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _respond(self, request: Burst, asked: Asked) -> None:
        try:
            text = await self._answer(asked)
        except Exception as error:
            request.fail(error)
        else:
            request.respond([text])
