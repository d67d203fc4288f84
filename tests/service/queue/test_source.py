"""The source by itself, where a test must hold its clock or its bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from pydantic import SecretStr

from service.contracts import queue as contract
from service.contracts.stream import STREAM
from service.nats.client import NatsClient
from service.nats.connection import Connection
from service.queue.response import RESPONSE_BYTES
from service.queue.role import _stream
from service.queue.settings import QueueSettings
from service.runtime.errors import ServiceError
from service.sources.jetstream.redrive import SetAside
from service.sources.jetstream.source import JetStream
from service.sources.jetstream.timing import Timing
from service.sources.source import Done, Result, UnknownReceipt, Unreachable
from tests.support.network import network
from tests.support.queue.sidecar import set_ack_wait, store
from tests.support.world import World, eventually


def lost(error: ServiceError) -> None:
    raise AssertionError(error)


@asynccontextmanager
async def reading(
    world: World, counts: SetAside | None = None, *, timing: Timing = Timing()
) -> AsyncIterator[JetStream]:
    settings = QueueSettings.model_construct(
        queue=f"jetstream:{STREAM}", nats_url=world.nats_url, nats_credentials=SecretStr(world.creds("queue"))
    )
    connection = Connection(settings, name="queue", inbox_prefix=contract.INBOX_PREFIX, on_lost=lost)
    source = _stream(settings, STREAM, connection, counts or SetAside(), timing)
    await connection.open()
    try:
        for need in source.needs():
            await need.look()
        await source.start()
        yield source
    finally:
        await source.close()
        await connection.close()


async def test_a_message_that_no_response_can_carry_is_set_aside_and_stands_in_nobodys_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.queue.role.RESPONSE_BYTES", 2_000)
    await store(world, b"x" * 3_000, b"good")
    counts = SetAside()
    async with reading(world, counts) as source:
        (message,) = await source.receive(10, 2_000, 30, 5)
        assert message.data == b"good"
        assert counts.kept == 1
        assert [type(result) for result in await source.delete([source.receipt(message)])] == [Done]
        assert (await source.backlog()).messages == 0
    async with world.administrator() as admin:
        dead = await admin.get_msg(contract.DEAD_STREAM, 1)
    assert dead.data == b"x" * 3_000
    assert "too large for a gRPC response" in (dead.headers or {})["Queue-Reason"]


@pytest.mark.parametrize(("hours", "changes"), [(-1, Done), (1, UnknownReceipt)])
async def test_a_clock_that_is_set_loses_no_message_and_no_deletion(
    world: World, monkeypatch: pytest.MonkeyPatch, hours: int, changes: type
) -> None:
    """Set forward, a visibility seems to have ended: that it is not changed then is the safe side."""
    await store(world, b"one")
    async with reading(world) as source:
        (message,) = await source.receive(10, RESPONSE_BYTES, 60, 5)
        moved = SimpleNamespace(time=lambda: time.time() + 3_600 * hours, monotonic=time.monotonic)
        monkeypatch.setattr("service.sources.jetstream.source.time", moved)
        monkeypatch.setattr("service.sources.jetstream.visibility.time", moved)
        assert [type(result) for result in await source.change_visibility([source.receipt(message)], 90)] == [changes]
        assert await source.receive(10, RESPONSE_BYTES, 60, 1) == []
        assert [type(result) for result in await source.delete([source.receipt(message)])] == [Done]
        assert (await source.backlog()).messages == 0


async def test_a_visibility_that_the_server_heard_of_too_late_lets_one_client_have_the_message(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the server has handed it to the other, in good faith."""
    slow = [1.5]

    async def on_its_way(_payload: bytes) -> None:
        await asyncio.sleep(slow.pop() if slow else 0)

    await set_ack_wait(world, 1)
    monkeypatch.setattr("service.sources.jetstream.source.may_be_sent", on_its_way)
    await store(world, b"one")
    async with reading(world) as source:
        received = await asyncio.gather(*(source.receive(10, RESPONSE_BYTES, 30, 2) for _ in range(2)))
        (message,) = [message for messages in received for message in messages]
        assert message.times_received == 2
        assert [type(result) for result in await source.delete([source.receipt(message)])] == [Done]


async def test_a_message_whose_longer_visibility_was_lost_with_the_connection_reaches_nobody_else(world: World) -> None:
    await set_ack_wait(world, 1)
    await store(world, b"one")
    async with network(world.nats_url) as (between, url), reading(world.at(url)) as source:
        between.lose = b"-NAK {"
        (message,) = await source.receive(10, RESPONSE_BYTES, 30, 5)
        assert between.lose == b"", "it was lost"
        assert await source.receive(10, RESPONSE_BYTES, 30, 2) == [], (
            "the server gives it away after a second, unless told"
        )
        assert [type(result) for result in await source.delete([source.receipt(message)])] == [Done]


async def test_what_is_asked_for_without_a_connection_is_refused_and_not_done_later(world: World) -> None:
    """By then another client may have the message."""
    timing = Timing(confirm_s=0.2)
    await store(world, b"one")
    async with network(world.nats_url) as (between, url), reading(world.at(url), timing=timing) as source:
        (message,) = await source.receive(10, RESPONSE_BYTES, 30, 5)
        async with between.cut():
            results = await source.change_visibility([source.receipt(message)], 0)
            assert [type(result) for result in results] == [Unreachable]
        await eventually(lambda: source.problem() == "", what="a connection")
        assert await source.receive(10, RESPONSE_BYTES, 30, 1) == []
        assert [type(result) for result in await source.delete([source.receipt(message)])] == [Done]


@pytest.mark.parametrize("answer", ["acknowledge", "give_back", "release"])
async def test_a_late_answer_takes_no_message_of_a_stream_that_was_made_again(world: World, answer: str) -> None:
    """Its sequences begin again, and a server knows by them alone what is answered."""
    await store(world, b"old", b"old")
    async with reading(world) as source, world.administrator() as admin:
        old = await source.receive(2, RESPONSE_BYTES, source.visibility_s, 5)
        receipts = [source.receipt(message) for message in old]
        stream = (await admin.stream_info(STREAM)).config
        consumer = (await admin.consumer_info(STREAM, contract.CONSUMER)).config
        await admin.delete_stream(STREAM)
        await admin.add_stream(stream)
        await admin.add_consumer(STREAM, consumer)
        await store(world, b"new", b"new")
        new = await source.receive(2, RESPONSE_BYTES, source.visibility_s, 5)
        assert [message.data for message in (*old, *new)] == [b"old", b"old", b"new", b"new"]
        assert [message.sequence for message in old] == [message.sequence for message in new]
        getattr(source, answer)(receipts if answer == "release" else old)
        await source.settle()
        assert (await source.backlog()).messages == 2
        assert await source.receive(2, RESPONSE_BYTES, source.visibility_s, 0) == []
        source.acknowledge(new)
        await source.settle()
        assert (await source.backlog()).messages == 0


async def test_deletions_that_others_are_on_their_way_with_share_a_write(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(world, *[b"%d" % number for number in range(64)])
    async with reading(world) as source:
        receipts = [source.receipt(message) for message in await source.receive(64, 2_000_000, 30, 5)]
        transport = source._nc._transport
        assert transport is not None
        written = Mock(wraps=transport.writelines)
        monkeypatch.setattr(transport, "writelines", written)

        async def one_after_the_other(mine: list[str]) -> list[Result]:
            return [result for receipt in mine for result in await source.delete([receipt])]

        results = await asyncio.gather(*(one_after_the_other(receipts[place::16]) for place in range(16)))
        assert [type(result) for some in results for result in some] == [Done] * len(receipts)
        assert written.call_count <= len(receipts) // 4
        assert (await source.backlog()).messages == 0


async def test_neither_a_lone_deletion_nor_a_change_of_visibility_waits_for_others(world: World) -> None:
    await store(world, *[b"%d" % number for number in range(4)])
    async with reading(world, timing=Timing(gather_s=60)) as source:
        receipts = [source.receipt(message) for message in await source.receive(4, 2_000_000, 30, 5)]
        for receipt in receipts[:2]:
            assert [type(result) for result in await source.delete([receipt])] == [Done]
        source._answers._company = 2
        waiting = asyncio.create_task(source.delete(receipts[2:3]))
        assert [type(result) for result in await source.change_visibility(receipts[3:], 0)] == [Done]
        assert not waiting.done()
        source._answers._send_gathered()
        assert [type(result) for result in await waiting] == [Done]


async def test_a_deletion_that_waits_for_others_when_the_connection_is_lost_is_confirmed_afterwards(
    world: World,
) -> None:
    await store(world, b"one")
    async with reading(world, timing=Timing(gather_s=60)) as source:
        receipts = [source.receipt(message) for message in await source.receive(1, 2_000_000, 30, 5)]
        source._answers._company = 2
        deleting = asyncio.create_task(source.delete(receipts))
        answers = source._answers
        await eventually(lambda: bool(answers._gathered))
        answers._company = 0
        source._on_lost()
        assert not source._answers._gathered
        assert [type(result) for result in await deleting] == [Done]
        assert (await source.backlog()).messages == 0


async def test_acknowledgements_leave_together_and_all_before_an_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(world, b"one", b"two", b"three")
    writes: list[int] = []
    post_each = NatsClient.post_each

    def counted(nc: NatsClient, subjects: Sequence[str], payload: bytes) -> None:
        writes.append(len(subjects))
        post_each(nc, subjects, payload)

    monkeypatch.setattr(NatsClient, "post_each", counted)

    async def left() -> int:
        return (await source.backlog()).messages

    async with reading(world) as source:
        messages = await source.receive(2, RESPONSE_BYTES, 30, 5)
        source.acknowledge(messages[:1])
        source.acknowledge(messages[1:])
        assert writes == []

        async def two_are_gone() -> bool:
            return await left() == 1

        await eventually(two_are_gone, what="two acknowledgements")
        assert writes == [2]
    async with reading(world, timing=Timing(acknowledge_s=3_600.0)) as source:
        source.acknowledge(await source.receive(1, RESPONSE_BYTES, 30, 5))
        await source.settle()
        assert await left() == 0
    assert writes == [2, 1]
