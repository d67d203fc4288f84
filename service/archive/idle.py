"""When an archiver has nothing left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from service.archive.source import Backlog, Source
from service.runtime.errors import ServiceError

POLL_S: Final = 1.0


class Watch:
    """Reads the backlog every second, and says when it has been 0 for long enough, with nothing held."""

    def __init__(
        self, source: Source, held: Callable[[], int], idle_s: float, *, finish: Callable[[], None],
        fail: Callable[[ServiceError], None],
    ) -> None:  # fmt: skip
        self.backlog: Backlog | None = None
        """The last one that was read; None while it cannot be."""
        self._source = source
        self._held = held
        self._idle_s = idle_s
        self._finish = finish
        self._fail = fail

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        busy_s = loop.time()
        while True:
            started_s = loop.time()
            try:
                self.backlog = await self._source.backlog()
            except ServiceError as error:
                self._fail(error)
                return
            if self.backlog is None or self.backlog.messages or self._held():
                busy_s = loop.time()
            elif self._idle_s and started_s - busy_s >= self._idle_s:
                self._finish()
                return
            await asyncio.sleep(min(POLL_S, self._idle_s / 4) if self._idle_s else POLL_S)
