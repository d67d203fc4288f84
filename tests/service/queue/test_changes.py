"""What changes under a running sidecar: its consumer, its stream, its credentials, its clock."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import grpc
import pytest
from nats.js.api import ConsumerConfig

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import EVERYTHING
from service.contracts import queue as contract
from service.contracts.stream import STREAM
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from service.sources.jetstream.receipt import Receipt, Receipts
from service.sources.source import UnknownReceipt
from tests.support.queue.sidecar import sidecar, store
from tests.support.world import World, complaint, eventually, get

OK, NOT_FOUND = 0, grpc.StatusCode.NOT_FOUND.value[0]


async def received(channel: grpc.aio.Channel, count: int, visibility_s: int = 30, wait_s: int = 5) -> list[Any]:
    """So many messages."""
    found: list[Any] = []
    while len(found) < count:
        request = pb.SQSReceiveMessageRequest(
            visibility_timeout=visibility_s, wait_time=wait_s, maximum_number_of_messages=count - len(found)
        )
        found += (await SQSServiceStub(channel).ReceiveMessage(request, timeout=30)).messages
    return found


async def deleted(channel: grpc.aio.Channel, *receipts: str) -> list[int]:
    request = pb.SQSDeleteMessagesRequest(messageIDs=receipts)
    return [result.code for result in (await SQSServiceStub(channel).DeleteMessages(request, timeout=30)).results]


async def changed(channel: grpc.aio.Channel, visibility_s: int, *receipts: str) -> list[Any]:
    request = pb.SQSChangeVisibilityRequest(messageIDs=receipts, visibility_timeout=visibility_s)
    return list((await SQSServiceStub(channel).ChangeVisibility(request, timeout=30)).results)


async def test_a_receipt_is_good_at_any_sidecar_of_its_queue_and_after_a_restart_and_at_no_others(
    world: World,
) -> None:
    await store(world, b"one", b"two", b"three")
    async with world.administrator() as admin:
        await admin.add_consumer(STREAM, ConsumerConfig(durable_name="other"))
    async with sidecar(world) as (_, first):
        one, two, three = await received(first, 3)
    async with sidecar(world) as (_, second):
        assert await deleted(second, one.messageID) == [OK]
        assert [result.code for result in await changed(second, 60, two.messageID)] == [OK]
        other = [part if number else str(int(part) + 1) for number, part in enumerate(three.messageID.split("-"))]
        assert await deleted(second, "-".join(other)) == [NOT_FOUND]
        assert await deleted(second, two.messageID, three.messageID) == [OK, OK]


async def test_a_consumer_that_is_deleted_is_reported_and_one_made_again_is_served(world: World) -> None:
    await store(world, b"one", b"two")
    async with sidecar(world) as (task, channel):
        one, two = await received(channel, 2)
        async with world.administrator() as admin:
            config = (await admin.consumer_info(STREAM, contract.CONSUMER)).config
            waiting = asyncio.ensure_future(received(channel, 1, wait_s=10))
            await admin.delete_consumer(STREAM, contract.CONSUMER)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await waiting
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "consumer queue of customer-balances" in str(caught.value.details())
            status, body = await get(f"{task.health_url}/readyz")
            assert (status, "consumer queue of customer-balances" in body) == (503, True)
            await admin.add_consumer(STREAM, config)
        again = await received(channel, 2)
        assert [message.id for message in again] == [one.id, two.id]
        assert await deleted(channel, one.messageID) == [NOT_FOUND], "of the consumer that is gone"
        assert await deleted(channel, *(message.messageID for message in again)) == [OK, OK]

        async def is_ready() -> bool:
            return (await get(f"{task.health_url}/readyz"))[0] == 200

        await eventually(is_ready, what="readiness")


async def test_a_stream_made_again_behind_its_back_is_not_taken_for_the_old_one(world: World) -> None:
    """Its sequences begin at 1 again: an old receipt would delete another message."""
    await store(world, b"one")
    async with sidecar(world) as (_, channel):
        (one,) = await received(channel, 1)
        async with world.administrator() as admin:
            stream = (await admin.stream_info(STREAM)).config
            consumer = (await admin.consumer_info(STREAM, contract.CONSUMER)).config
            await admin.delete_stream(STREAM)
            await admin.add_stream(stream)
            await admin.add_consumer(STREAM, consumer)
        await store(world, b"another")
        (another,) = await received(channel, 1)
        assert (another.id, another.messageBody) == (one.id, "another")
        assert await deleted(channel, one.messageID) == [NOT_FOUND]
        assert await deleted(channel, another.messageID) == [OK]


async def test_what_was_purged_can_be_deleted_and_what_comes_later_is_handed_out(world: World) -> None:
    await store(world, b"one", b"two")
    async with sidecar(world) as (_, channel):
        (one,) = await received(channel, 1)
        async with world.administrator() as admin:
            await admin.purge_stream(STREAM)
        assert await deleted(channel, one.messageID) == [OK]
        await store(world, b"three")
        (three,) = await received(channel, 1)
        assert three.messageBody == "three"
        assert await deleted(channel, three.messageID) == [OK]


async def test_revoked_credentials_end_it_with_one_line_and_waiting_receives_with_it(world: World) -> None:
    await store(world, b"one")
    key = Key.user()
    token = claims.user_jwt(EVERYTHING.user(contract.USER), key.public, world.account, account=world.account.public)
    creds = base64.b64encode(claims.creds_file(token, key).encode()).decode()
    async with sidecar(world, NATS_CREDENTIALS=creds) as (task, channel):
        assert len(await received(channel, 1)) == 1
        waiting = asyncio.ensure_future(received(channel, 1, wait_s=20))
        await world.push(revoked={key.public: int(time.time()) + 1})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waiting
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(20):
            assert await task.child.wait() == 1
        assert "refuses the credentials" in complaint(task.child.log.read_text())


async def test_a_visibility_that_has_ended_is_not_changed_for_another_may_have_the_message(world: World) -> None:
    await store(world, b"one")
    async with sidecar(world) as (_, channel):
        (first,) = await received(channel, 1, visibility_s=1)
        (second,) = await received(channel, 1, visibility_s=30)
        (late,) = await changed(channel, 0, first.messageID)
        assert (late.code, "its visibility has ended" in late.error) == (NOT_FOUND, True)
        request = pb.SQSReceiveMessageRequest(visibility_timeout=30, wait_time=0, maximum_number_of_messages=1)
        assert list((await SQSServiceStub(channel).ReceiveMessage(request)).messages) == [], "the second client has it"
        assert await deleted(channel, second.messageID) == [OK]


def test_a_receipt_is_its_consumers_alone() -> None:
    receipt = Receipt(delivered=1, sequence=7, consumer_sequence=9, time_ns=1_700_000_000_000_000_000, deadline_ms=5)
    ours, made_again, other = Receipts("queue", 1), Receipts("queue", 2), Receipts("queue2", 1)
    assert ours.parse(ours.text(receipt)) == receipt
    assert receipt.subject("$JS.ACK.s.queue") == "$JS.ACK.s.queue.1.7.9.1700000000000000000.0"
    for theirs in (made_again, other):
        with pytest.raises(UnknownReceipt):
            ours.parse(theirs.text(receipt))
    assert all(part.isdigit() for part in ours.text(receipt).split("-")), "numbers alone"
