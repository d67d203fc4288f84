"""End tasks reliably."""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.1


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks; return when all have ended, in whatever way.

    Before Python 3.12 one `cancel` is not enough: `asyncio.wait_for`, in which nats-py awaits each reply, swallows a
    cancellation that arrives together with the result, and a loop around it would never end.
    """
    while pending := {task for task in tasks if not task.done()}:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
