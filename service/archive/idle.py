"""When an archiver has nothing left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.sources.source import Backlog, Source, Unavailable

log: Final = structlog.get_logger("service.archive")
_unknown: Final = Repeated(log, "the backlog is not known")

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
            except Unavailable as error:
                self.backlog = None
                _unknown.warning("", error=str(error))
            except ServiceError as error:
                self._fail(error)
                return
            except Exception as error:  # without this watch the task would never end
                self.backlog = None
                _unknown.warning(type(error).__name__, error=f"{type(error).__name__}: {error}")
            if self.backlog is None or self.backlog.messages or self._held():
                busy_s = loop.time()
            elif self._idle_s and started_s - busy_s >= self._idle_s:
                self._finish()
                return
            await asyncio.sleep(min(POLL_S, self._idle_s / 4) if self._idle_s else POLL_S)
