"""Detect that an archiver has nothing left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.sources.source import Backlog, Unreachable, WorkSource
from service.writing.ledger import Ledger

log: Final = structlog.get_logger("service.archive")
_unknown: Final = Repeated(log, "the backlog is not known")

POLL_S: Final = 1.0


class Watch:
    """Reads the backlog every second; calls `finish` after `idle_s` seconds with backlog 0, nothing held or received.

    Messages received and finished between two reads show only in the number received.
    """

    def __init__(
        self, source: WorkSource[Any], ledger: Ledger[Any], idle_s: float, *, finish: Callable[[], None],
        fail: Callable[[ServiceError], None],
    ) -> None:  # fmt: skip
        self.backlog: Backlog | None = None
        """The last backlog read; None while it cannot be read."""
        self._source = source
        self._ledger = ledger
        self._idle_s = idle_s
        self._finish = finish
        self._fail = fail

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        busy_s, received = loop.time(), 0  # when it was last seen busy
        while True:
            started_s = loop.time()
            try:
                self.backlog = await self._source.backlog()
            except Unreachable as error:
                self.backlog = None
                _unknown.warning("", error=str(error))
            except ServiceError as error:
                self._fail(error)
                return
            except Exception as error:  # if the watch died, the task would never end
                self.backlog = None
                _unknown.warning(type(error).__name__, error=f"{type(error).__name__}: {error}")
            before, received = received, self._ledger.received
            if self.backlog is None or self.backlog.messages or self._ledger.held or received > before:
                busy_s = loop.time()
            elif self._idle_s and started_s - busy_s >= self._idle_s:  # up to the start of this look
                self._finish()
                return
            await asyncio.sleep(min(POLL_S, self._idle_s / 4) if self._idle_s else POLL_S)
