"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.1


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel, and return when all have ended, however they did.

    Once is not enough before Python 3.12: `asyncio.wait_for`, in which nats-py waits for each reply, forgets a
    cancellation that comes together with the result, and a loop around it goes on for ever.
    """
    while pending := {task for task in tasks if not task.done()}:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
