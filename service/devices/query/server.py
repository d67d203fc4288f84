"""Serve the calls of `service.Query`: the table's rows as streams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
from google.protobuf import empty_pb2

from service.contracts import devices as contract
from service.devices.query import query_pb2 as pb
from service.devices.query.row import EPOCH_MAX, Reading, encode
from service.devices.query.table import Readings
from service.grpc.calls import Calls, Context, register, write
from service.requests.failures import Failures

STREAMS: Final = 64
"""Maximum streams at a time. Each takes up to 200 KB: a page, and what the connection has not taken yet."""
_LIMIT_MAX: Final = 2**31 - 1
_STOPS: Final = "the server stops; call again"

_device: Final = re.compile(contract.DEVICE_ID).fullmatch
_failures: Final = Failures(structlog.get_logger("service.devices"), "stream broke off")


@dataclass
class Counts:
    rows: int = 0
    """Rows sent."""
    broken: int = 0
    """Streams that broke off: the table failed, or the server stopped."""


class Query:
    """The two calls. A stream that breaks off ends with UNAVAILABLE and the number of rows sent: call again.

    A stream reads a page of the table when the client's connection has taken all rows of the previous one; HTTP/2's
    flow control says when. A request out of range ends with INVALID_ARGUMENT, which names the field.
    """

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._streams: set[asyncio.Timeout] = set()
        self._stopping = False
        self.calls = Calls()
        self.counts = Counts()

    @property
    def streams(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the calls."""
        many = grpc.unary_stream_rpc_method_handler
        handlers = {
            "GetSensorRows": many(self.GetSensorRows, empty_pb2.Empty.FromString),
            "GetDeviceRows": many(self.GetDeviceRows, pb.Range.FromString),
        }
        register(server, contract.GRPC_SERVICE, handlers)

    async def stop(self) -> None:
        """Break off the streams."""
        self._stopping = True
        for stream in self._streams:
            stream.reschedule(asyncio.get_running_loop().time())

    async def GetSensorRows(self, _request: empty_pb2.Empty, context: Context) -> None:  # noqa: N802
        """Send every row of the table, in no order."""
        self.calls.enter()
        await self._stream(self._readings.scan(), context)

    async def GetDeviceRows(self, request: pb.Range, context: Context) -> None:  # noqa: N802
        """Send a device's rows of a period, in the order of its clock."""
        self.calls.enter()
        if not _device(request.device):
            said = f"device is {request.device[:40]!r}; give 1 to 36 of A-Z, a-z, 0-9, _ and -"
            await self.calls.refuse(context, grpc.StatusCode.INVALID_ARGUMENT, said)
        start, end = getattr(request, "from"), request.to
        await self.calls.within(context, "from", start, 0, EPOCH_MAX)
        await self.calls.within(context, "to", end, start if end else 0, EPOCH_MAX)
        await self.calls.within(context, "limit", request.limit, 0, _LIMIT_MAX)
        rows = self._readings.range(request.device, start, end, request.limit, request.newest_first)
        await self._stream(rows, context)

    async def _stream(self, pages: AsyncIterator[Sequence[Reading]], context: Context) -> None:
        if self._stopping or len(self._streams) >= STREAMS:
            why = _STOPS if self._stopping else f"{STREAMS} streams are open; end one, or call later"
            await self.calls.refuse(context, grpc.StatusCode.UNAVAILABLE, why)
        sent = 0
        try:
            async with asyncio.timeout(None) as scope:
                self._streams.add(scope)
                await context.send_initial_metadata(())
                async for page in pages:
                    for reading in page:
                        sent += 1  # before the write: one that is interrupted has begun, and gRPC ends it
                        await write(context, encode(reading))
        except Exception as error:
            is_stopped = scope.expired() and isinstance(error, TimeoutError)
            why = _STOPS if is_stopped else _failures.refusal(error, rows=sent).message
        else:
            return
        finally:
            self.counts.rows += sent
            self._streams.discard(scope)
        self.counts.broken += 1
        said = f"the stream broke off after {sent} rows: {why}"
        await self.calls.refuse(context, grpc.StatusCode.UNAVAILABLE, said)
