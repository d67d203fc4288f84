"""Work in a thread ends as it would have here, and in nobody's way."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from service.runtime.threads import in_thread
from tests.support.world import eventually


async def test_a_result_and_an_error_are_handed_back() -> None:
    assert await in_thread(lambda: threading.current_thread().name, "there") == "there"
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0, "there")


async def test_work_that_exits_is_an_error_of_the_work() -> None:
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        await asyncio.wait_for(in_thread(lambda: sys.exit(3), "there"), 10)


@pytest.mark.parametrize(
    "ends", [StopIteration("no more"), asyncio.CancelledError("no more"), GeneratorExit("no more")]
)
async def test_work_that_raises_what_no_future_takes_ends_for_its_caller(ends: BaseException) -> None:
    def work() -> None:
        raise ends

    with pytest.raises(RuntimeError, match=f"{type(ends).__name__}: no more"):
        await asyncio.wait_for(in_thread(work, "there"), 10)


async def test_a_thread_that_cannot_start_is_an_error_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    work = in_thread(lambda: 1, "there")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await work


async def test_one_that_is_not_waited_for_any_more_ends_in_silence() -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    released = threading.Event()
    work = in_thread(released.wait, "there")
    work.cancel()
    released.set()
    await eventually(lambda: all(thread.name != "there" for thread in threading.enumerate()), what="the thread's end")
    await asyncio.sleep(0)
    assert failures == []
