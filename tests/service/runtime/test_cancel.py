"""A cancellation that is forgotten, as `asyncio.wait_for` may before Python 3.12, is asked for again."""

from __future__ import annotations

import asyncio

from service.runtime.cancel import cancel


async def test_a_task_that_forgets_is_cancelled_again() -> None:
    forgotten = 0

    async def forgetful() -> None:
        nonlocal forgotten
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if forgotten == 2:
                    raise
                forgotten += 1

    async def fails() -> None:
        raise ValueError

    tasks = [asyncio.create_task(each) for each in (forgetful(), fails())]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cancel(*tasks)
    assert forgotten == 2
    assert all(task.done() for task in tasks)
