"""Clients that go away, or do not read: what they were not given is given back, and what waits for them is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from local.process import claim_port
from local.system import Task
from service.contracts import customer
from service.contracts import queue as contract
from service.queue import sqs_pb2 as pb
from service.queue.server import SQSService
from service.queue.sqs_pb2_grpc import SQSServiceStub
from service.sources.jetstream.receipt import Receipts
from service.sources.source import ReceiptSource, Result
from tests.service.queue.test_source import reading
from tests.support.drills.drill import memory_mib
from tests.support.nats.wire import hpub, wire
from tests.support.queue.http2 import unread
from tests.support.queue.sidecar import sidecar, store
from tests.support.world import World, eventually

HOUR_S = 3600
COUNT = 30
UNREAD = 120
RECEIVE = pb.SQSReceiveMessageRequest(visibility_timeout=HOUR_S, wait_time=5, maximum_number_of_messages=1000)
STREAM = pb.SQSStreamMessagesRequest(visibility_timeout=HOUR_S, maximum_number_of_messages=1000)


@asynccontextmanager
async def listening(world: World, **env: str) -> AsyncIterator[tuple[Task, SQSServiceStub, str]]:
    listen = f"127.0.0.1:{claim_port(0, '')}"
    async with sidecar(world, QUEUE_LISTEN=listen, **env) as (task, channel):
        yield task, SQSServiceStub(channel), listen


async def pending(world: World) -> int:
    """Messages that someone has."""
    async with world.administrator() as admin:
        return (await admin.consumer_info(contract.STREAM, contract.CONSUMER)).num_ack_pending or 0


async def receive(stub: SQSServiceStub, visibility_s: int = 30, wait_s: int = 5, limit: int = 1000) -> list[Any]:
    request = pb.SQSReceiveMessageRequest(
        visibility_timeout=visibility_s, wait_time=wait_s, maximum_number_of_messages=limit
    )
    return list((await stub.ReceiveMessage(request, timeout=30)).messages)


@pytest.mark.parametrize(("method", "request_"), [("StreamMessages", STREAM), ("ReceiveMessage", RECEIVE)])
async def test_what_a_client_did_not_read_before_it_went_is_received_by_the_next(
    world: World, method: str, request_: Any
) -> None:
    await store(world, *(b"x" * 300_000 for _ in range(3)))
    async with listening(world) as (task, stub, listen):
        with unread(listen, method, request_):

            async def taken() -> bool:
                return await pending(world) == 3

            await eventually(taken, what="messages on their way to a client that does not read")
        got: list[Any] = []
        while len(got) < 3:
            messages = await receive(stub)
            assert messages, "hidden for an hour"
            got += messages
        assert "Traceback" not in task.child.log.read_text()


async def test_a_deletion_that_the_queue_confirmed_is_one_though_its_consumer_was_made_again_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(world, b"one", b"two")
    async with reading(world) as source:
        delete = source.delete

        async def delete_and_look(receipts: list[str]) -> list[Result]:
            results = await delete(receipts)
            source._consumer.receipts = Receipts(contract.CONSUMER, 1)
            return results

        monkeypatch.setattr(source, "delete", delete_and_look)
        async with serving(source) as stub:
            call = stub.StreamMessages(pb.SQSStreamMessagesRequest(visibility_timeout=30, maximum_number_of_messages=1))
            (message,) = (await call.read()).messages
            await stub.DeleteMessage(pb.SQSDeleteMessageRequest(messageID=message.messageID), timeout=10)
            (message,) = (await call.read()).messages
            assert message.messageBody == "two", "the deletion made room"
            call.cancel()


@asynccontextmanager
async def serving(source: ReceiptSource[Any]) -> AsyncIterator[SQSServiceStub]:
    server, service = grpc.aio.server(), SQSService(source)
    service.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield SQSServiceStub(channel)
    finally:
        await service.stop()
        await server.stop(1)


async def test_messages_that_grow_on_their_way_are_more_than_one_response(world: World) -> None:
    """A header's byte that is no UTF-8 becomes three."""
    header = b"NATS/1.0\r\na: " + b"\xff" * 60_000 + b"\r\n\r\n"
    async with wire(world.nats_url, world.creds("service")) as sender:
        for _ in range(COUNT):
            sender.send(hpub(f"{customer.SUBJECT}.1".encode(), header, b"big"))
        assert await sender.roundtrip()
        assert not sender.errors
    async with listening(world) as (_, stub, _):
        ids: list[str] = []
        while len(ids) < COUNT:
            messages = await receive(stub)
            assert messages, "hidden, and handed to nobody"
            ids += [message.id for message in messages]
        assert sorted(map(int, ids)) == list(range(1, COUNT + 1))


async def test_what_clients_do_not_read_is_bounded_and_a_receive_is_reported(world: World) -> None:
    await store(world, *(b"x" * 900_000 for _ in range(UNREAD)))
    async with listening(world) as (task, stub, listen):
        assert len(await receive(stub, limit=1)) == 1
        before_mib = most_mib = memory_mib(task)
        with unread(listen, "StreamMessages", STREAM, calls=UNREAD):
            told = 0

            async def is_full() -> bool:
                nonlocal told, most_mib
                try:
                    await receive(stub, wait_s=0, limit=1)
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert "clients have not read" in str(error.details())
                    told += 1
                most_mib = max(most_mib, memory_mib(task))
                return told == 3

            await eventually(is_full, what="receives that are told")
            assert most_mib - before_mib < 90, "all of them take 200 and more"
            assert await pending(world) < UNREAD / 2, "the others are left to those who read"
        assert await receive(stub, wait_s=20), "room, now that the others are gone"
