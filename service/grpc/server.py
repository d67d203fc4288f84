"""A gRPC server of one service, with health and reflection: start, drain and close it."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import grpc

from service.grpc.address import Address
from service.grpc.calls import Calls
from service.grpc.health import Health
from service.grpc.listen import OPTIONS, bind, lost
from service.runtime.cancel import cancel

WATCH_S: Final = 0.2
"""Seconds for clients that watch the health to learn that the server is stopping."""


class Service(Protocol):
    calls: Calls

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the calls."""
        ...

    async def stop(self) -> None:
        """Tell calls that wait or run without end to end now."""
        ...


class Server:
    def __init__(self, address: Address, name: str, service: Service) -> None:
        """`name` is the service's name in its .proto, with the package."""
        self._address = address
        self._service = service
        self._health = Health(name)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listen and report SERVING; return the port. Raise `ServiceError` with the reason if it cannot listen."""
        self._server = grpc.aio.server(options=OPTIONS)
        self._service.add_to(self._server)
        self._health.add_to(self._server)
        port = await bind(self._server, self._address)
        await self._server.start()
        await self._health.serving()
        return port

    async def drain(self, timeout_s: float) -> None:
        """Report NOT_SERVING and take no more calls; return when those in flight have ended.

        Calls are cut off after `timeout_s` seconds. Health watches are not awaited: they would stay open all the time.
        """
        await self._health.stopping()
        await self._service.stop()
        if self._server:
            stopping = asyncio.ensure_future(self._server.stop(timeout_s))
            for _ in range(2):  # a call that gRPC had accepted may begin only now
                idle = asyncio.ensure_future(self._service.calls.idle())
                await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait((stopping,), timeout=WATCH_S)
                await cancel(idle)
            await self._server.stop(0)  # a second call shortens the grace of the first
            await stopping

    async def close(self) -> None:
        """Cut off all calls."""
        if self._server:
            await self._server.stop(None)

    def problem(self) -> str:
        """Return the reason clients can no longer find the server, or ''."""
        return lost(self._address.listen)
