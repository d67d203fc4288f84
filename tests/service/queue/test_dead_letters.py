"""What is received too often, and the stream that keeps it: also when that is full."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from service.contracts import customer
from service.contracts import queue as contract
from service.contracts.stream import STREAM
from service.queue import sqs_pb2 as pb
from service.queue.response import RESPONSE_BYTES
from service.queue.sqs_pb2_grpc import SQSServiceStub
from service.sources.jetstream.redrive import SetAside
from tests.service.queue.test_source import reading
from tests.support.nats.wire import hpub, wire
from tests.support.queue.sidecar import set_ack_wait, sidecar, store
from tests.support.world import World, eventually, metric

BAD = "\udcff"
"""A byte that is no UTF-8."""


async def received(channel: grpc.aio.Channel, visibility_s: int = 0, wait_s: int = 5) -> list[Any]:
    request = pb.SQSReceiveMessageRequest(
        visibility_timeout=visibility_s, wait_time=wait_s, maximum_number_of_messages=10
    )
    return list((await SQSServiceStub(channel).ReceiveMessage(request)).messages)


async def test_a_poison_message_becomes_a_dead_letter_and_blocks_nothing(world: World) -> None:
    await store(world, b"poison", headers={"Tier": "gold"})
    async with sidecar(world, QUEUE_MAX_DELIVER="2") as (task, channel):
        for _ in range(2):
            assert len(await received(channel)) == 1
        await store(world, b"good")
        messages: list[Any] = []
        while not messages:
            messages += await received(channel, visibility_s=30)
        assert [message.messageBody for message in messages] == ["good"]

        async def kept() -> bool:
            return await metric(task, "queue_dead_letters_total") == 1

        await eventually(kept, what="a dead letter")
        async with world.administrator() as admin:
            dead = await admin.get_msg(contract.DEAD_STREAM, 1)
        assert dead.data == b"poison"
        assert dead.headers is not None
        assert dead.headers["Queue-Reason"] == "received 2 times and not deleted"
        assert dead.headers["Queue-Subject"] == f"{customer.SUBJECT}.0"
        assert dead.headers["Tier"] == "gold"


async def test_while_the_stream_of_dead_letters_is_full_they_stay_in_their_own_and_others_are_handed_out(
    world: World,
) -> None:
    await set_ack_wait(world, 1)
    await store(world, b"p" * 200)
    async with sidecar(world, QUEUE_MAX_DELIVER="1") as (task, channel):
        async with world.administrator() as admin:
            full = (await admin.stream_info(contract.DEAD_STREAM)).config
            room = full.max_bytes
            full.max_bytes = 100
            await admin.update_stream(full)
        assert len(await received(channel)) == 1
        assert await received(channel, wait_s=0) == [], "it is handed to nobody any more"
        await store(world, b"good")
        (good,) = await received(channel)
        assert good.messageBody == "good"
        await SQSServiceStub(channel).DeleteMessage(pb.SQSDeleteMessageRequest(messageID=good.messageID))
        assert await metric(task, "queue_dead_letters_refused_total") >= 1
        assert await metric(task, "queue_dead_letters_total") == 0
        async with world.administrator() as admin:
            assert (await admin.stream_info(contract.DEAD_STREAM)).state.messages == 0
            full.max_bytes = room
            await admin.update_stream(full)

            async def kept() -> bool:
                assert await received(channel, wait_s=0) == []
                info = await admin.consumer_info(STREAM, contract.CONSUMER)
                return (info.num_pending, info.num_ack_pending) == (0, 0)

            await eventually(kept, what="a dead letter")
            assert (await admin.get_msg(contract.DEAD_STREAM, 1)).data == b"p" * 200


async def test_headers_that_no_client_can_send_keep_no_message_from_its_dead_letter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.queue.role.RESPONSE_BYTES", 1)
    lines = {
        "a name that is no ASCII": "café: x\r\nTier: gold",
        "a blank in a name": "a b: x\r\nTier: gold",
        "a blank before a name": " Nats-Msg-Id: x\r\nTier: gold",
        "two of a name": "Tier: gold\r\nTier: silver",
        "as many bytes as there may be": f"a: {'x' * 65_400}\r\nTier: gold",
        "bytes that are no UTF-8": f"a: {BAD * 30_000}\r\nTier: gold",
    }
    async with wire(world.nats_url, world.creds("service")) as sender:
        for line in lines.values():
            header = f"NATS/1.0\r\n{line}\r\n\r\n".encode(errors="surrogateescape")
            sender.send(hpub(f"{customer.SUBJECT}.1".encode(), header, b"poison"))
        assert await sender.roundtrip()
    counts = SetAside()
    async with reading(world, counts) as source:
        assert await source.receive(100, RESPONSE_BYTES, 30, 1) == []
        assert (counts.kept, counts.refused) == (len(lines), 0)
        assert (await source.backlog()).messages == 0
    async with world.administrator() as admin:
        for number, name in enumerate(lines, 1):
            headers = (await admin.get_msg(contract.DEAD_STREAM, number)).headers or {}
            assert (headers["Tier"], headers["Queue-Headers-Left-Out"]) == ("gold", "1"), name
