"""None is handed to two clients inside its visibility: at the consumer's limit, after a sleep, without an answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import nats.errors
import pytest

from service.contracts import customer
from service.contracts import queue as contract
from service.contracts.stream import STREAM
from service.queue.response import RESPONSE_BYTES
from service.runtime.cancel import cancel
from service.runtime.errors import ServiceError
from service.sources.jetstream.source import JetStream
from service.sources.jetstream.timing import Timing
from service.sources.source import Done, Result, UnknownReceipt, Unreachable
from tests.service.queue.test_source import reading
from tests.support.network import network
from tests.support.queue.sidecar import store
from tests.support.world import World, eventually


async def edit(world: World, **changes: object) -> None:
    async with world.administrator() as admin:
        config = (await admin.consumer_info(STREAM, contract.CONSUMER)).config
        await admin.add_consumer(STREAM, config.evolve(**changes))


async def make_again(world: World) -> None:
    async with world.administrator() as admin:
        config = (await admin.consumer_info(STREAM, contract.CONSUMER)).config
        await admin.delete_consumer(STREAM, contract.CONSUMER)
        await admin.add_consumer(STREAM, config)


async def kinds(results: Awaitable[list[Result]]) -> list[type]:
    return [type(result) for result in await results]


async def test_a_receive_that_waits_returns_with_its_first_message_at_the_consumers_limit(world: World) -> None:
    await edit(world, max_ack_pending=2)
    await store(world, b"1", b"2", b"3")
    async with reading(world) as source:
        held = await source.receive(10, RESPONSE_BYTES, source.visibility_s, 1)
        waiting = asyncio.create_task(source.receive(10, RESPONSE_BYTES, source.visibility_s, 30))
        assert await kinds(source.delete([source.receipt(held[0])])) == [Done]
        async with asyncio.timeout(10):
            assert [message.data for message in await waiting] == [b"3"]


@pytest.mark.parametrize("waits", [True, False])
async def test_what_came_while_the_process_slept_is_left_to_whoever_received_it_since(
    world: World, waits: bool
) -> None:
    """Neither handed out nor given back: both would take it from the other."""
    await edit(world, ack_wait=2)
    async with reading(world) as source:
        receiving = asyncio.create_task(source.receive(10, RESPONSE_BYTES, 2, 1.0 if waits else 30.0))
        async with world.administrator() as admin:

            async def pulling() -> bool:
                return bool((await admin.consumer_info(STREAM, contract.CONSUMER)).num_waiting)

            await eventually(pulling)
        if not waits:
            receiving.cancel()
        other: list[bytes] = []

        async def receive_for_another() -> None:
            async with world.administrator() as admin:
                await admin.publish(f"{customer.SUBJECT}.1", b"one")
                reader = await admin.pull_subscribe_bind(contract.CONSUMER, STREAM)
                other.extend(message.data for message in await reader.fetch(1, timeout=5))

        asleep = threading.Thread(target=lambda: asyncio.run(receive_for_another()))
        asleep.start()
        asleep.join()
        assert other == [b"one"]
        (outcome,) = await asyncio.gather(receiving, return_exceptions=True)
        assert not outcome or isinstance(outcome, Unreachable | asyncio.CancelledError)
        async with world.administrator() as admin:
            reader = await admin.pull_subscribe_bind(contract.CONSUMER, STREAM)
            with pytest.raises(nats.errors.TimeoutError):
                await reader.fetch(1, timeout=0.7)


async def test_what_makes_a_message_visible_is_said_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first may have counted; a deletion may come twice."""
    await store(world, b"one")
    async with reading(world, timing=Timing(confirm_s=0.1)) as source:
        (message,) = await source.receive(10, RESPONSE_BYTES, 30, 5)
        said = lose_the_replies(source, monkeypatch)
        assert await kinds(source.change_visibility([source.receipt(message)], 0)) == [Unreachable]
        assert len(said) == 1
        assert await kinds(source.delete([source.receipt(message)])) == [Unreachable]
        assert len(said) == 3


def lose_the_replies(source: JetStream, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is acknowledged from now on, and is never confirmed."""
    said: list[str] = []
    nc = source._nc
    post: Callable[..., None] = nc.post

    def mute(subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        if subject.startswith("$JS.ACK."):
            said.append(subject)
            reply = ""
        post(subject, payload, reply, headers)

    monkeypatch.setattr(nc, "post", mute)
    return said


async def test_an_ack_wait_that_was_edited_holds_from_the_next_receive_on(world: World) -> None:
    await store(world, b"one")
    async with reading(world, timing=Timing(look_s=0)) as source:
        await edit(world, ack_wait=1)
        (message,) = await source.receive(10, RESPONSE_BYTES, 30, 5)
        assert await source.receive(10, RESPONSE_BYTES, 30, 1.5) == []
        assert await kinds(source.delete([source.receipt(message)])) == [Done]


async def test_an_ack_wait_that_was_edited_holds_for_a_change_of_visibility(world: World) -> None:
    timing = Timing(look_s=0)
    await store(world, b"one")
    async with reading(world, timing=timing) as source, reading(world, timing=timing) as other:
        (message,) = await source.receive(10, RESPONSE_BYTES, 60, 5)
        await edit(world, ack_wait=1)
        assert await kinds(source.change_visibility([source.receipt(message)], 30)) == [Done]
        assert await other.receive(10, RESPONSE_BYTES, 30, 2) == []


async def test_what_the_network_held_for_longer_than_its_visibility_is_left_to_others(world: World) -> None:
    """The process runs all the while, and reads the message as if it had been sent just now."""
    await edit(world, ack_wait=6)
    async with (
        network(world.nats_url) as (there, url),
        reading(world.at(url)) as source,
        reading(world) as other,
        world.administrator() as admin,
    ):

        async def counts(name: str) -> bool:
            return bool(getattr(await admin.consumer_info(STREAM, contract.CONSUMER), name))

        receiving = asyncio.create_task(source.receive(10, RESPONSE_BYTES, 6, 60))
        await eventually(lambda: counts("num_waiting"))
        async with there.stalled():
            await store(world, b"one")
            await eventually(lambda: counts("num_ack_pending"))
            (again,) = await other.receive(10, RESPONSE_BYTES, 6, 20)
            assert again.times_received == 2
        assert await kinds(other.delete([other.receipt(again)])) == [Done], "nothing took it from the other"
        await store(world, b"two")
        assert [message.data for message in await receiving] == [b"two"]


async def test_a_pull_that_fills_slowly_is_handed_out_before_its_visibility_ends(world: World) -> None:
    """At the consumer's limit messages become free one by one, and each is a reason to wait for the next."""
    await edit(world, ack_wait=3, max_ack_pending=60)
    await store(world, *(b"x" for _ in range(200)))
    async with reading(world, timing=Timing(linger_max_s=60.0)) as source, reading(world) as other:
        held = await other.receive(60, RESPONSE_BYTES, 30, 5)

        async def free_them() -> None:
            for message in held:
                await other.delete([other.receipt(message)])
                await asyncio.sleep(0.06)

        freeing = asyncio.create_task(free_them())
        received = await source.receive(200, RESPONSE_BYTES, 3, 5)
        await cancel(freeing)
        assert {message.times_received for message in received} == {1}, "none was dropped, and delivered again"


async def test_a_visibility_that_ends_before_the_server_answers_is_not_changed(world: World) -> None:
    await store(world, b"one")
    async with network(world.nats_url) as (there, url), reading(world.at(url)) as source, reading(world) as other:
        (message,) = await source.receive(10, RESPONSE_BYTES, 2, 5)
        await asyncio.sleep(1.2)  # what was known of the consumer is looked at again
        async with there.stalled():
            changing = asyncio.create_task(source.change_visibility([source.receipt(message)], 20))
            (again,) = await other.receive(10, RESPONSE_BYTES, 3, 10)
            assert again.data == b"one"
        assert await kinds(changing) == [UnknownReceipt]
        assert await other.receive(10, RESPONSE_BYTES, 3, 10), "when the other's own visibility has ended"


async def test_what_was_looked_at_for_longer_than_its_visibility_is_left_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await edit(world, ack_wait=1)
    await store(world, b"one")
    async with reading(world, timing=Timing(look_s=0)) as source:
        look = source._consumer._info

        async def slowly() -> object:
            await asyncio.sleep(1.2)
            return await look()

        monkeypatch.setattr(source._consumer, "_info", slowly)
        assert await source.receive(10, RESPONSE_BYTES, 1, 0) == []


async def test_a_receive_that_is_cancelled_while_it_hides_its_messages_gives_them_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hiding = asyncio.Event()

    async def wait(_payload: bytes) -> None:
        hiding.set()
        await asyncio.sleep(60)

    await store(world, b"one")
    async with reading(world) as source:
        with monkeypatch.context() as patch:
            patch.setattr("service.sources.jetstream.source.may_be_sent", wait)
            receiving = asyncio.create_task(source.receive(10, RESPONSE_BYTES, 3_600, 5))
            await hiding.wait()
            receiving.cancel()
            await asyncio.wait([receiving])
        began = time.monotonic()
        assert [message.data for message in await source.receive(10, RESPONSE_BYTES, 3_600, 10)] == [b"one"]
        assert time.monotonic() - began < 10


async def test_receipts_of_a_consumer_that_was_made_again_meanwhile_delete_nothing(world: World) -> None:
    """Nobody told a sidecar that had no pull open."""
    timing = Timing(look_s=0)
    await store(world, b"one")
    async with reading(world, timing=timing) as source, reading(world, timing=timing) as other:
        (message,) = await source.receive(10, RESPONSE_BYTES, 30, 5)
        old = source.receipt(message)
        await make_again(world)
        assert await kinds(source.delete([old])) == [UnknownReceipt]
        (again,) = await source.receive(10, RESPONSE_BYTES, 30, 5)
        assert await kinds(other.delete([source.receipt(again)])) == [Done]


@pytest.mark.parametrize(
    ("changes", "said"), [({"max_deliver": 2}, "max_deliver"), ({"headers_only": True}, "headers only")]
)
async def test_a_consumer_that_would_lose_messages_is_refused(
    world: World, changes: dict[str, object], said: str
) -> None:
    await edit(world, **changes)
    with pytest.raises(ServiceError, match=said):
        async with reading(world):
            pass


async def test_an_edit_that_would_lose_messages_stops_the_handing_out(world: World) -> None:
    await store(world, b"one")
    async with reading(world, timing=Timing(look_s=0)) as source:
        await edit(world, max_deliver=2)
        with pytest.raises(Unreachable, match="max_deliver"):
            await source.receive(10, RESPONSE_BYTES, 30, 0)
        await eventually(lambda: "max_deliver" in source.problem())
