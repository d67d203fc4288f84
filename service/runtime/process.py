"""The life of a process: serve the health page, check needs, start, await a signal or an error, drain, close."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

import structlog

from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.errors import ServiceError
from service.runtime.health import serve_health
from service.runtime.logs import writes_json
from service.runtime.role import Role, Skipped
from service.runtime.settings import Settings
from service.runtime.telemetry.emf import Emitter

log: Final = structlog.get_logger("service.process")

AnySettings = TypeVar("AnySettings", bound=Settings)

CLOSE_S: Final = 1.0
"""Seconds of `SHUTDOWN_TIMEOUT` reserved for closing connections."""


class Stop:
    """The reason to stop: a signal, an error or finished work. A second signal ends the process at once."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._finished = False
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)

    def fail(self, error: ServiceError) -> None:
        """Stop because the role cannot continue. Only the first reason counts."""
        if not self._stopped.done():
            self._stopped.set_exception(error)

    def finish(self) -> None:
        """Stop because the role's work is done: drain, close, exit with 0."""
        if not self._stopped.done():
            self._finished = True
            self._stopped.set_result(None)

    @property
    def failed(self) -> bool:
        return self._stopped.done() and not self._stopped.cancelled() and self._stopped.exception() is not None

    async def wait(self) -> None:
        """Return after a signal or `finish`; raise the error of `fail`."""
        await asyncio.shield(self._stopped)

    async def unless_first(self, starting: Coroutine[Any, Any, None]) -> bool:
        """Run `starting` and return True; if a signal or `finish` comes first, cancel it and return False.

        Raise the error of `fail` if that comes first.
        """
        task = asyncio.create_task(starting)
        await asyncio.wait({task, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            await cancel(task)
            await self._stopped
            return False
        await task
        return True

    def _signalled(self, number: signal.Signals) -> None:
        if self._stopped.done() and not self._finished:
            os._exit(128 + number)
        log.info("signal", name=signal.Signals(number).name)
        if not self._stopped.done():
            self._stopped.set_result(None)
        self._finished = False  # the next signal is a second one


async def run(make: Callable[[AnySettings, Stop], Role], settings: AnySettings) -> None:
    """Run a role until SIGTERM or SIGINT, then drain it.

    Raise `ServiceError` if the role cannot start or continue, or if the drain left something undone.
    """
    async with AsyncExitStack() as stack:
        stop = Stop()
        role = make(settings, stop)
        stack.push_async_callback(role.close)
        port = await stack.enter_async_context(
            serve_health(
                settings.health_host,
                settings.health_port,
                role.problems,
                role.remarks,
                role.metrics,
                lambda: not stop.failed,
            )
        )
        log.info("health and metrics", port=port)
        if not await stop.unless_first(_begin(role)):
            log.info("stopped before it served")
            return
        if writes_json(settings) and (figures := role.figures()):
            stack.push_async_callback(cancel, background(Emitter(figures).run(), "emf"))
        drain_s = settings.shutdown_timeout - CLOSE_S
        try:
            await stop.wait()
        except ServiceError as error:
            await _drain_after(error, role, drain_s)
        else:
            await role.drain(drain_s)


async def _drain_after(error: ServiceError, role: Role, timeout_s: float) -> None:
    """Drain, then raise `error`, together with what the drain left undone."""
    try:
        await role.drain(timeout_s)
    except ServiceError as left:
        raise ServiceError(f"{error.problem}; {left.problem}", error.remedy) from None
    raise error


async def _begin(role: Role) -> None:
    for need in role.needs():
        try:
            await need.look()
        except Skipped as skipped:
            log.debug("not looked at", need=need.name, reason=str(skipped))
    await role.start()
    gc.collect()
    gc.freeze()  # else each full collection walks the libraries: 20 ms of CPU, a third of a second at 0.06 vCPU
