"""Register a gRPC service's calls, count them while in flight, and refuse them with a reason."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc

Context = grpc.aio.ServicerContext[Any, Any]


def register(server: grpc.aio.Server, service: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
    """Add a service's calls to the server, by name."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_registered_method_handlers(service, handlers)  # type: ignore[attr-defined]


async def write(context: Context, response: bytes) -> None:
    """Send a response; return when the connection has taken it. Raise `CancelledError` if the client is gone."""
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


class Calls:
    """One service's calls in flight, and how many were refused."""

    def __init__(self) -> None:
        self.refused = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def enter(self) -> None:
        """Count the current task as a call until its response is sent: gRPC runs each call in its own task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  see above
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def idle(self) -> None:
        """Return when no call is in flight: each has sent its response."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def within(self, context: Context, name: str, value: int, least: int, most: int) -> None:
        """Refuse the call with INVALID_ARGUMENT and the field's name unless its value is within the bounds."""
        if not least <= value <= most:
            await self.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, f"{name} is {value}; give {least} to {most}")

    async def refuse(self, context: Context, code: grpc.StatusCode, said: str) -> NoReturn:
        """End the call with an error."""
        self.refused += 1
        await context.abort(code, said)
        raise AssertionError("abort raises")
