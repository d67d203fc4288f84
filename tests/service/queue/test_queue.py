"""The sidecar on real servers: the original client, the newer calls, visibility, dead letters, forged receipts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.contracts import customer
from service.contracts import queue as contract
from service.contracts.stream import STREAM
from service.nats import jetstream
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from tests.service.queue.conftest import Shared
from tests.support.command import finished
from tests.support.queue.sidecar import OriginalClient, sidecar, sidecar_env, store
from tests.support.world import World, eventually, stop


def receive(visibility_s: int = 30, wait_s: int = 5, limit: int = 100) -> pb.SQSReceiveMessageRequest:
    return pb.SQSReceiveMessageRequest(
        visibility_timeout=visibility_s, wait_time=wait_s, maximum_number_of_messages=limit
    )


async def backlog(world: World) -> int:
    async with world.administrator() as admin:
        info = await admin.consumer_info(STREAM, contract.CONSUMER)
        return jetstream.backlog(info)


async def test_the_original_client_receives_and_deletes(shared: Shared) -> None:
    world, channel = shared
    await store(world, *(f"body {number}".encode() for number in range(12)))
    client = OriginalClient(channel)
    bodies: set[str] = set()
    while len(bodies) < 12:
        for message in await client.receive():
            bodies.add(message.messageBody)
            await client.delete(message.messageID)
    assert bodies == {f"body {number}" for number in range(12)}
    assert await backlog(world) == 0
    began = time.monotonic()
    assert await client.receive(wait_s=1) == []
    assert 0.9 < time.monotonic() - began < 3


async def test_a_message_says_what_it_is_and_many_are_deleted_in_one_call(shared: Shared) -> None:
    world, channel = shared
    await store(world, b"\xff\x00", b"{}", headers={"Status": "gold"})
    stub = SQSServiceStub(channel)
    messages: list[Any] = []
    while len(messages) < 2:
        messages += (await stub.ReceiveMessage(receive())).messages
    first, second = messages
    assert (first.data, first.messageBody, second.data, second.messageBody) == (b"\xff\x00", "", b"", "{}")
    assert first.subject == f"{customer.SUBJECT}.0"
    assert [(header.name, header.value) for header in first.headers] == [("Status", "gold")]
    assert first.times_received == 1
    assert abs(first.time_sent_ms / 1000 - time.time()) < 60
    receipts = [first.messageID, "forged", second.messageID, first.messageID.replace("-", "-9", 1)]
    results = (await stub.DeleteMessages(pb.SQSDeleteMessagesRequest(messageIDs=receipts))).results
    assert [result.code for result in results[:3]] == [0, 5, 0]
    assert await backlog(world) == 0
    again = await stub.DeleteMessages(pb.SQSDeleteMessagesRequest(messageIDs=receipts[:1]))
    assert again.results[0].code == 0, "deleting twice is no error"


@pytest.mark.parametrize("visibility_s", [0, 1])
async def test_what_is_not_deleted_comes_again_after_its_visibility(shared: Shared, visibility_s: int) -> None:
    world, channel = shared
    await store(world, b"one")
    stub = SQSServiceStub(channel)
    (first,) = (await stub.ReceiveMessage(receive(visibility_s))).messages
    began = time.monotonic()
    (second,) = (await stub.ReceiveMessage(receive(30, wait_s=10))).messages
    assert visibility_s - 0.1 <= time.monotonic() - began < visibility_s + 2
    assert (second.id, second.times_received) == (first.id, 2)
    await stub.DeleteMessage(pb.SQSDeleteMessageRequest(messageID=first.messageID))
    assert await backlog(world) == 0, "a late delete is accepted"


async def test_a_visibility_is_changed(shared: Shared) -> None:
    world, channel = shared
    await store(world, b"one", b"two")
    stub = SQSServiceStub(channel)
    messages: list[Any] = []
    while len(messages) < 2:
        messages += (await stub.ReceiveMessage(receive(30, limit=2))).messages
    change = pb.SQSChangeVisibilityRequest(messageIDs=[messages[0].messageID], visibility_timeout=0)
    (result,) = (await stub.ChangeVisibility(change)).results
    assert (result.code, result.messageID != messages[0].messageID) == (0, True)
    (again,) = (await stub.ReceiveMessage(receive(30))).messages
    assert again.id == messages[0].id
    await stub.DeleteMessage(pb.SQSDeleteMessageRequest(messageID=result.messageID))


async def test_a_stream_hands_out_what_is_not_deleted_up_to_its_bound(world: World) -> None:
    await store(world, *(b"%d" % number for number in range(6)))
    async with sidecar(world) as (task, channel):
        stub = SQSServiceStub(channel)
        call = stub.StreamMessages(pb.SQSStreamMessagesRequest(visibility_timeout=30, maximum_number_of_messages=4))
        got: list[Any] = []
        async for response in call:
            got += response.messages
            assert len(got) <= 4
            if len(got) == 4:
                break
        receipts = [message.messageID for message in got[:2]]
        await stub.DeleteMessages(pb.SQSDeleteMessagesRequest(messageIDs=receipts))
        async for response in call:
            got += response.messages
            if len(got) == 6:
                break
        assert sorted(message.messageBody for message in got) == [str(number) for number in range(6)]
        await stop(task)


async def test_what_is_out_of_bounds_is_reported(shared: Shared) -> None:
    _, channel = shared
    wrong = {
        "visibility_timeout": receive(43_201),
        "wait_time": receive(wait_s=21),
        "maximum_number_of_messages is 0": receive(limit=0),
        "maximum_number_of_messages is 1001": receive(limit=1001),
    }
    for said, request in wrong.items():
        with pytest.raises(grpc.aio.AioRpcError, match=said) as caught:
            await SQSServiceStub(channel).ReceiveMessage(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_check_says_that_nothing_is_missing(world: World) -> None:
    code, output = await finished("service", "queue", "--check", **sidecar_env(world), HEALTH_PORT="0")
    assert (code, "missing" in output) == (0, False), output


async def test_a_sigterm_ends_a_waiting_receive_at_once(world: World) -> None:
    async with sidecar(world) as (task, channel):
        waiting = asyncio.ensure_future(SQSServiceStub(channel).ReceiveMessage(receive(wait_s=20)))

        async def waits() -> bool:
            async with world.administrator() as admin:
                return bool((await admin.consumer_info(STREAM, contract.CONSUMER)).num_waiting)

        await eventually(waits, what="a pull that waits")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        began = time.monotonic()
        await stop(task)
        assert list((await waiting).messages) == []
        assert time.monotonic() - began < 5
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_generated_code_is_current(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}",
               f"--grpc_python_out={tmp_path}", "service/queue/sqs.proto"]  # fmt: skip
    await asyncio.to_thread(subprocess.run, command, cwd=root, check=True)
    for made in (tmp_path / "service/queue").iterdir():
        assert made.read_text() == (root / "service/queue" / made.name).read_text(), f"run make proto: {made.name}"
