"""Limit the calls in flight: slowly more while all goes well, half as many when DynamoDB is busy."""

from __future__ import annotations

import asyncio
import time
from typing import Final

START: Final = 16
MOST: Final = 64
CALM_S: Final = 0.5
"""For this long after a cut, busy answers belong to calls that were already in flight."""


class Pace:
    """Use as `async with pace:` around each call."""

    def __init__(self) -> None:
        self.limit = float(START)
        self.wrote_s = time.monotonic()
        """When a row was last written or found to exist."""
        self._active = 0
        self._cut_s = float("-inf")
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._active < max(1, int(self.limit)))
            self._active += 1

    async def __aexit__(self, *_: object) -> None:
        async with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def went_well(self) -> None:
        self.wrote_s = time.monotonic()
        self.limit = min(MOST, self.limit + 1 / self.limit)

    def is_busy(self) -> None:
        now = time.monotonic()
        if now - self._cut_s > CALM_S:
            self._cut_s = now
            self.limit = max(1.0, self.limit / 2)
