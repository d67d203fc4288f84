"""The health service and the reflection of a gRPC server: https://github.com/grpc/grpc/blob/master/doc/health-checking.md"""

from __future__ import annotations

import grpc
from grpc_health.v1 import _async, health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection


class Health:
    """Of the server and of its one service of our own. A watch of it stays open until the server stops."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._servicer = _async.HealthServicer()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add both, before the server starts."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        reflection.enable_server_reflection((self._service, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    async def serving(self) -> None:
        """Say that it serves."""
        for name in ("", self._service):
            await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stopping(self) -> None:
        """Say that it serves no more; for good."""
        await self._servicer.enter_graceful_shutdown()
