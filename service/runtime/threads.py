"""Run blocking work in a thread that does not delay the end of the process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run `work` in a daemon thread: an executor's threads would keep the process alive until a hung call ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def end(result: T | None, error: Exception | None) -> None:
        if future.done():
            return  # the caller has cancelled it
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # None only where it is the result
        else:
            future.set_exception(error)

    def run() -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except BaseException as error:
            failure = _for_a_future(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: no caller is left
            loop.call_soon_threadsafe(end, result, failure)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # too many threads: pass it on as the call's failure, so that the caller cleans up
        future.set_exception(error)
    return future


def _for_a_future(error: BaseException) -> Exception:
    """Return an exception for the caller: a library's `sys.exit` must neither end the process nor be lost.

    A future refuses StopIteration: https://docs.python.org/3/library/asyncio-future.html#asyncio.Future.set_exception
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
