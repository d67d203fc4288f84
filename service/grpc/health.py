"""Health service and reflection of a gRPC server: https://github.com/grpc/grpc/blob/master/doc/health-checking.md"""

from __future__ import annotations

import grpc
from grpc_health.v1 import _async, health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection


class Health:
    """Health of the server and of its one service. A client's `Watch` call stays open until the server stops."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._servicer = _async.HealthServicer()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add health and reflection. Call it before the server starts."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        reflection.enable_server_reflection((self._service, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def serving(self) -> None:
        """Report SERVING."""
        for name in ("", self._service):
            await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stopping(self) -> None:
        """Report NOT_SERVING from now on; later calls of `serving` have no effect."""
        await self._servicer.enter_graceful_shutdown()
