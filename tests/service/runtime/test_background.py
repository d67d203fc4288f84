"""A task that nobody waits for says so when it fails."""

from __future__ import annotations

import asyncio

import structlog

from service.runtime.background import background
from service.runtime.cancel import cancel


async def test_an_error_is_logged_and_an_end_is_not() -> None:
    async def fail() -> None:
        raise KeyError("boom")

    with structlog.testing.capture_logs() as logs:
        failing, waiting = background(fail(), "first"), background(asyncio.sleep(60), "second")
        await asyncio.wait([failing])
        await cancel(failing, waiting)
    (line,) = logs
    assert (line["event"], line["task"], line["log_level"]) == ("background task failed", "first", "error")
    assert isinstance(line["exc_info"], KeyError)
