"""What comes from below the library: bytes that are no gRPC, connections that say nothing, receipts of any size."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from local.process import claim_port
from local.system import Task
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from tests.service.queue.conftest import Shared
from tests.support.drills.drill import memory_mib
from tests.support.queue.http2 import PREFACE, SETTINGS, frame
from tests.support.queue.sidecar import sidecar
from tests.support.world import World, eventually, stop

IDLE = 1_000
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


ATTACKS = {
    "nothing": b"",
    "HTTP/1.1": b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a preface cut short": PREFACE[:10],
    "no SETTINGS": PREFACE,
    "noise": b"\x00\xff" * 4096,
    "noise behind a preface": PREFACE + SETTINGS + os.urandom(4096),
    "a frame larger than is allowed": PREFACE + SETTINGS + frame(0, b"\x00" * (1 << 20), stream=1),
    "DATA on a stream that is not open": PREFACE + SETTINGS + frame(0, b"x", stream=7),
    "HEADERS that are no HPACK": PREFACE + SETTINGS + frame(1, b"\xff" * 64, flags=4, stream=1),
    "HEADERS without an end": PREFACE
    + SETTINGS
    + frame(1, b"\x82", stream=1)
    + frame(9, b"\x82" * 64, stream=1) * 1000,
    "a flood of PING": PREFACE + SETTINGS + frame(6, b"12345678") * 5000,
    "a flood of SETTINGS": PREFACE + SETTINGS * 5000,
    "resets of streams that never were": PREFACE + SETTINGS + frame(3, b"\x00" * 4, stream=1) * 5000,
    "an endless window": PREFACE + SETTINGS + frame(8, b"\x7f\xff\xff\xff") * 100,
}


@asynccontextmanager
async def listening(world: World) -> AsyncIterator[tuple[Task, grpc.aio.Channel, int]]:
    port = claim_port(0, "")
    async with sidecar(world, QUEUE_LISTEN=f"127.0.0.1:{port}") as (task, channel):
        yield task, channel, port


async def serves(channel: grpc.aio.Channel) -> bool:
    request = health_pb2.HealthCheckRequest()
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5, wait_for_ready=True)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_bytes_that_are_no_grpc_harm_nobody(world: World) -> None:
    async with listening(world) as (task, channel, port):
        assert await serves(channel)
        process = psutil.Process(task.child.pid)
        descriptors, memory = process.num_fds(), memory_mib(task)
        for attack in ATTACKS.values():
            with socket.create_connection(("127.0.0.1", port)) as attacker:
                with contextlib.suppress(ConnectionError):
                    await asyncio.to_thread(attacker.sendall, attack)
                assert await serves(channel)
        await eventually(lambda: process.num_fds() <= descriptors, what="every connection let go")
        assert memory_mib(task) < memory + 20
        await stop(task)


async def test_a_thousand_idle_connections_take_no_service_from_others(world: World) -> None:
    async with listening(world) as (task, channel, port):
        assert await serves(channel)
        process = psutil.Process(task.child.pid)
        descriptors = process.num_fds()
        with ExitStack() as stack:
            for number in range(IDLE):
                idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                if number % 2:
                    idle.sendall(PREFACE + SETTINGS)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as fresh:
                assert await serves(fresh)
        await eventually(lambda: process.num_fds() <= descriptors + 1, what="every connection let go")
        assert await serves(channel)
        await stop(task)


async def test_metadata_and_messages_beyond_the_bounds_are_refused(shared: Shared) -> None:
    _, channel = shared
    request = pb.SQSDeleteMessageRequest(messageID="1")
    giants = (
        (request, (("x-giant", "x" * 1_000_000),)),
        (pb.SQSDeleteMessageRequest(messageID="1" * 5_000_000), ()),
    )
    for giant, metadata in giants:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await SQSServiceStub(channel).DeleteMessage(giant, metadata=metadata, timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await serves(channel)


@pytest.mark.parametrize("receipt", ["-" * 3_000_000, "1" * 3_000_000, "é" * 1_000_000, "", "1-1-1-1-1-1", "\0"])
async def test_an_invalid_receipt_is_not_found(shared: Shared, receipt: str) -> None:
    _, channel = shared
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await SQSServiceStub(channel).DeleteMessage(pb.SQSDeleteMessageRequest(messageID=receipt), timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert "give the messageID as it was received" in str(caught.value.details())


async def test_a_call_with_bytes_that_are_no_message_is_an_error_of_that_call(shared: Shared) -> None:
    _, channel = shared
    for name in ("ReceiveMessage", "DeleteMessages", "ChangeVisibility"):
        call = channel.unary_unary(f"/sqs.SQSService/{name}", request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff\xff", timeout=10)
        assert caught.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
        assert await serves(channel)
