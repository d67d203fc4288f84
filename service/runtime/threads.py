"""Work that blocks, in a thread that nobody waits for when the process ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run it in a daemon thread: an executor's threads would keep the process until the last silent call has ended."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def end(result: T | None, error: Exception | None) -> None:
        if future.done():
            return  # it was cancelled
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
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so nobody waits
            loop.call_soon_threadsafe(end, result, failure)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # there are too many: the caller frees what it holds as after any other failure
        future.set_exception(error)
    return future


def _for_a_future(error: BaseException) -> Exception:
    """Return what its caller can be told: a library's `sys.exit` must neither end the process nor leave it waiting.

    A future refuses StopIteration: https://docs.python.org/3/library/asyncio-future.html#asyncio.Future.set_exception
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
