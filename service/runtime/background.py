"""Background tasks, which no caller awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

log: Final = structlog.get_logger("service.process")


def background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task. If an error ends it, the error is logged with its traceback. End it with `cancel`."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("background task failed", task=task.get_name(), exc_info=error)
