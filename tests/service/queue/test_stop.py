"""What a client is told by a sidecar that stops."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from service.queue import sqs_pb2 as pb
from service.queue.server import SQSService
from service.queue.sqs_pb2_grpc import SQSServiceStub
from tests.service.queue.test_source import reading
from tests.support.world import World


async def test_a_receive_that_comes_while_the_sidecar_stops_gets_unavailable(world: World) -> None:
    """Its call was accepted before. It waited, until the end of the drain cancelled it."""
    async with reading(world) as source:
        service, server = SQSService(source), grpc.aio.server()
        service.add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            await service.stop()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                request = pb.SQSReceiveMessageRequest(visibility_timeout=30, wait_time=20, maximum_number_of_messages=1)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await SQSServiceStub(channel).ReceiveMessage(request, timeout=15)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "the sidecar stops; call again"
            assert await asyncio.wait_for(source.receive(1, 1000, 30, 20), 15) == []
        finally:
            await server.stop(None)
