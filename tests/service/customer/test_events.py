"""Events reach the real stream once each, whatever it does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from control_plane import jetstream
from control_plane.desired import ACCOUNT
from service.customer import contract, events
from service.customer.events import Events
from service.runtime.connection import roundtrip
from tests.support.world import World, eventually


@asynccontextmanager
async def publishing(world: World, **bounds: int) -> AsyncIterator[Events]:
    async with world.client("service") as client:
        published = Events(client, **bounds)
        await published.start()
        try:
            yield published
        finally:
            await published.close()


async def publish(published: Events, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        await published.publish(f"c{number}", b'{"balance":%d}' % number)


async def stored(world: World) -> list[tuple[str, bytes, str]]:
    async with world.administrator() as admin:
        state = (await admin.stream_info(contract.STREAM)).state
        messages = [await admin.get_msg(contract.STREAM, seq) for seq in range(state.first_seq, state.last_seq + 1)]
        return [(m.subject or "", m.data or b"", (m.headers or {})["Nats-Msg-Id"]) for m in messages]


async def delete_stream(world: World) -> None:
    async with world.administrator() as admin:
        await admin.delete_stream(contract.STREAM)


async def restore_stream(world: World) -> None:
    async with world.administrator() as admin:
        await jetstream.ensure(admin, ACCOUNT, replicas=1)


async def test_an_event_is_the_replys_bytes_under_the_clients_subject_with_an_id_of_its_own(world: World) -> None:
    async with publishing(world) as published:
        await publish(published, 200)
        assert await published.flush(5) == 0
        assert published.stats.published == 200
        messages = await stored(world)
        assert [(subject, data) for subject, data, _ in messages] == [
            (f"customer.balance.c{number}", b'{"balance":%d}' % number) for number in range(200)
        ]
        assert len({identity for _, _, identity in messages}) == 200


async def test_two_tasks_never_share_an_id(world: World) -> None:
    async with publishing(world) as one, publishing(world) as other:
        await publish(one, 50)
        await publish(other, 50)
        assert await one.flush(5) == await other.flush(5) == 0
    assert len({identity for _, _, identity in await stored(world)}) == 100


async def test_more_than_a_window_is_sent_as_acknowledgements_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "WINDOW", 10)
    async with publishing(world) as published:
        await publish(published, 500)
        assert len(published._sent) <= 10
        assert await published.flush(5) == 0
    assert await world.last_sequence() == 500


async def test_a_missing_stream_is_waited_for(world: World) -> None:
    async with publishing(world) as published:
        await delete_stream(world)
        await publish(published, 100)
        await eventually(lambda: published.stalled is not None)
        assert published.stalled == "no stream takes the subject"
        await publish(published, 100, start=100)
        assert published.pending == 200
        assert await published.flush(0.2) == 200
        await restore_stream(world)
        assert await published.flush(10) == 0
        assert published.stalled is None
        assert (published.stats.published, published.stats.dropped) == (200, 0)
        assert sorted(subject for subject, _, _ in await stored(world)) == sorted(
            f"customer.balance.c{number}" for number in range(200)
        )


async def test_a_full_stream_that_discards_new_is_waited_for(world: World) -> None:
    async with publishing(world) as published, world.administrator() as admin:
        config = (await admin.stream_info(contract.STREAM)).config
        config.discard, config.max_msgs = DiscardPolicy.NEW, 10
        await admin.update_stream(config)
        await publish(published, 25)
        await eventually(lambda: published.stalled is not None)
        assert "maximum messages exceeded" in (published.stalled or "")
        assert published.stats.published == 10
        config.max_msgs = 1000
        await admin.update_stream(config)
        assert await published.flush(10) == 0
    assert await world.last_sequence() == 25


async def test_a_stalled_stream_gets_a_probe_now_and_then_and_no_storm(world: World) -> None:
    async with publishing(world) as published, world.administrator() as admin:
        await delete_stream(world)
        listening = await admin._nc.subscribe("customer.balance.*")
        await publish(published, 1000)
        await eventually(lambda: published.stalled is not None)
        await roundtrip(published._nc)
        await asyncio.sleep(0.3)  # the backoff's first steps
        before = published.stats.retried
        await asyncio.sleep(1.0)
        assert published.stats.retried - before <= 4
        assert listening.delivered >= 1


async def test_what_does_not_fit_is_dropped_and_counted(world: World) -> None:
    async with publishing(world, max_events=50) as published:
        await delete_stream(world)
        await publish(published, 80)
        assert (published.pending, published.stats.dropped) == (50, 30)
        await restore_stream(world)
        assert await published.flush(10) == 0
        await publish(published, 1, start=1000)
        assert await published.flush(5) == 0
        assert published.stats.dropped == 30
    assert await world.last_sequence() == 51


async def test_bytes_are_bounded_too(world: World) -> None:
    async with publishing(world, max_bytes=2_000) as published:
        await delete_stream(world)
        await publish(published, 100)
        assert published._bytes <= 2_000
        assert published.pending + published.stats.dropped == 100


async def test_a_silent_stream_is_asked_again_with_the_same_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempts are stored, but their acknowledgements are lost: the ids keep them from being stored twice."""
    monkeypatch.setattr(events, "ACK_WAIT_S", 0.2)
    async with publishing(world) as published:
        heard = published._on_ack
        deaf = asyncio.Event()

        async def lose(_: object) -> None:
            deaf.set()

        subscription = next(sub for sub in published._nc._subs.values() if sub.subject.startswith(published._inbox))
        subscription._cb = lose
        await publish(published, 20)
        await deaf.wait()
        await eventually(lambda: published.stalled is not None)
        assert "no acknowledgement" in (published.stalled or "")
        subscription._cb = heard
        assert await published.flush(10) == 0
        assert published.stats.retried >= 20
    assert await world.last_sequence() == 20


async def test_an_outage_never_raises_and_nothing_is_lost(world: World) -> None:
    """While the client is away from the server, events wait."""
    async with world.client("service") as client:
        published = Events(client)
        await published.start()
        await client.close()
        await publish(published, 10)
        assert published.pending == 10
        assert published.stalled
        await published.close()


async def test_another_stream_that_takes_the_subject_does_not_acknowledge(world: World) -> None:
    async with world.administrator() as admin:
        await delete_stream(world)
        await admin.add_stream(StreamConfig(name="other", subjects=["customer.balance.*"]))
    async with publishing(world) as published:
        await publish(published, 3)
        assert await published.flush(0.5) == 3
        assert published.stalled == "an acknowledgement, and not of stream customer-balances"
