"""The measured calls to the queue sidecar, and an empty call to the same server: its health check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from benchmark.errors import BenchmarkError
from service.contracts import queue as contract
from service.queue.sqs_pb2 import SQSDeleteMessageRequest, SQSDeleteMessagesRequest, SQSReceiveMessageRequest
from service.queue.sqs_pb2_grpc import SQSServiceStub

AT_A_TIME: Final = 16
WAIT_S: Final = 5
Argument = TypeVar("Argument")


class QueueCalls:
    """Makes the calls. Each raises `BenchmarkError` if messages do not arrive or cannot be deleted."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = SQSServiceStub(channel)
        self._health = HealthStub(channel)

    async def receive(self, limit: int, visibility_s: int = contract.ACK_WAIT_S) -> list[str]:
        request = SQSReceiveMessageRequest(
            visibility_timeout=visibility_s, wait_time=WAIT_S, maximum_number_of_messages=limit
        )
        messages = (await self._stub.ReceiveMessage(request)).messages
        if not messages:
            raise BenchmarkError(f"the sidecar handed out nothing in {WAIT_S} s; see that the machine is not busy")
        return [message.messageID for message in messages]

    async def delete(self, receipts: Sequence[str]) -> None:
        results = (await self._stub.DeleteMessages(SQSDeleteMessagesRequest(messageIDs=receipts))).results
        if failed := [result.error for result in results if result.code]:
            raise BenchmarkError(f"{len(failed)} messages were not deleted: {failed[0]}")

    async def empty(self, count: int) -> float:
        """Make `count` empty calls; return the seconds they took."""
        request = HealthCheckRequest(service=contract.GRPC_SERVICE)
        return await _timed(self._health.Check, [request] * count)

    async def receive_one(self, count: int) -> tuple[float, list[str]]:
        """Receive one message `count` times; return the seconds that took, and the receipts."""
        receipts: list[str] = []

        async def one(limit: int) -> None:
            receipts.extend(await self.receive(limit))

        return await _timed(one, [1] * count), receipts

    async def delete_one(self, receipts: Sequence[str]) -> float:
        async def one(receipt: str) -> None:
            try:
                await self._stub.DeleteMessage(SQSDeleteMessageRequest(messageID=receipt))
            except grpc.aio.AioRpcError as error:
                raise BenchmarkError(f"a message was not deleted: {error.details()}") from None

        return await _timed(one, receipts)


async def _timed(call: Callable[[Argument], Awaitable[object]], arguments: Sequence[Argument]) -> float:
    """Make the calls with `AT_A_TIME` in flight; return the seconds they took."""
    left = iter(arguments)

    async def work(mine: Iterable[Argument]) -> None:
        for argument in mine:
            await call(argument)

    began = time.perf_counter()
    await asyncio.gather(*(work(left) for _ in range(AT_A_TIME)))
    return time.perf_counter() - began
