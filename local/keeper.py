"""Replace each task that ends, as ECS does, and say why it ended."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

from local.process import Child, LocalError
from local.system import Say, System, Task, first_to_end, ready

LONGEST_PAUSE_S: Final = 60.0
"""Longest pause before a start while a task fails again and again."""


async def keep(system: System, say: Say) -> LocalError:
    """Replace the tasks of a system until a part ends without which nothing works; return the error that names it."""
    async with asyncio.TaskGroup() as group:
        keeping = [group.create_task(_replaced(task, say)) for task in system.tasks]
        error = await first_to_end([system.nats, system.dynamodb])
        for each in keeping:
            each.cancel()
    return error


async def _replaced(first: Task, say: Say) -> None:
    """Start a task again whenever it has ended: at once, and later and later if it does not become ready."""
    task, failed = first, 0
    while True:
        code = await task.child.wait()
        say(f"{task.child.name}, process {task.child.pid}, {_how(code, task.child)}; another takes its place")
        await asyncio.sleep(min(LONGEST_PAUSE_S, 2.0**failed - 1))
        async with task.again() as another:
            task = another
            try:
                await ready(task)
            except LocalError:  # the next turn says how it ended
                failed += 1
                continue
            failed = 0
            say(f"{task.child.name} is ready again, process {task.child.pid}")
            await task.child.wait()


def _how(code: int, child: Child) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with {code}" + (f" ({child.last_words()})" if code else "")
