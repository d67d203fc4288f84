"""Events reach the real stream once each, whatever it does meanwhile, by the batch and one by one."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, StreamConfig
from structlog.testing import capture_logs

from control_plane.desired import ACCOUNT
from service.contracts import customer as contract
from service.contracts.stream import STREAM
from service.customer.events.events import PROBE_MAX_S, Events, Timing
from service.customer.events.window import WINDOW_MAX
from service.nats.client import NatsClient
from service.nats.connection import roundtrip
from service.nats.parser import Read
from tests.support.nats.declared import ensure
from tests.support.world import World, eventually

Publishing = Callable[..., AbstractAsyncContextManager[Events]]


@pytest.fixture(params=[True, False], ids=["by the batch", "one by one"])
def publishing(world: World, request: pytest.FixtureRequest) -> Publishing:
    @asynccontextmanager
    async def publishing(**given: Any) -> AsyncIterator[Events]:
        async with publisher(world, batched=request.param, **given) as published:
            yield published

    return publishing


@asynccontextmanager
async def publisher(world: World, *, batched: bool = True, **given: Any) -> AsyncIterator[Events]:
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)
        published = Events(client, **given)
        await published.start(batched=batched)
        try:
            yield published
        finally:
            await published.close()
        assert published._watch
        assert published._watch.done()


def publish(published: Events, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        published.publish([f"c{number}"], [f'{{"balance":{number}}}'])


def subjects(count: int) -> list[str]:
    return [f"customer.balance.c{number}" for number in range(count)]


async def stored(world: World) -> list[tuple[str, bytes, str]]:
    async with world.administrator() as admin:
        state = (await admin.stream_info(STREAM)).state
        messages = [await admin.get_msg(STREAM, seq) for seq in range(state.first_seq, state.last_seq + 1)]
        return [(m.subject or "", m.data or b"", (m.headers or {})["Nats-Msg-Id"]) for m in messages]


async def delete_stream(world: World) -> None:
    async with world.administrator() as admin:
        await admin.delete_stream(STREAM)


async def restore_stream(world: World) -> None:
    async with world.administrator() as admin:
        await ensure(admin, ACCOUNT, replicas=1)


def lose(published: Events, which: Callable[[str], bool]) -> list[str]:
    """Lose what is posted with a reply subject of that kind, once each. Returns what was lost so far."""
    post, lost = published._nc.post_frames, []

    def lossy(frames: str, sizes: Sequence[int]) -> None:
        kept = ""
        for frame in re.findall(r"HPUB .*?\r\n\r\n.*?\r\n", frames, re.DOTALL):
            reply = frame.split(" ", 3)[2]
            if which(reply) and reply not in lost:
                lost.append(reply)
            else:
                kept += frame
        post(kept, sizes)

    published._nc.post_frames = lossy  # type: ignore[method-assign]
    return lost


@dataclass
class Answer:
    """One answer of the stream."""

    subject: str
    payload: str
    headers: str


def intercept(published: Events, on_answer: Callable[[Answer], Any]) -> Callable[[Answer], None]:
    """Have the stream's answers handed to `on_answer`. Returns what takes them otherwise."""
    (subscription,) = [sub for sub in published._nc._subs.values() if sub.subject.startswith(contract.INBOX_PREFIX)]

    def on_read(read: Read) -> None:
        for columns in zip(read.subjects, read.payloads, read.headers, strict=True):
            on_answer(Answer(*columns))

    published._nc.deliver(subscription, on_read)
    return lambda answer: published._on_answer(answer.subject, answer.payload, answer.headers)


def nothing_is_held(published: Events) -> bool:
    outbox = published._outbox
    return (len(outbox), outbox.held_bytes, outbox.unacknowledged, outbox.sent) == (0, 0, 0, {})


async def test_an_event_is_the_replys_bytes_under_the_clients_subject_with_an_id_of_its_own(
    world: World, publishing: Publishing
) -> None:
    async with publishing() as published:
        publish(published, 250)
        assert await published.flush(5) == 0
        assert published.stats.published == 250
        messages = await stored(world)
        assert [(subject, data) for subject, data, _ in messages] == [
            (f"customer.balance.c{number}", b'{"balance":%d}' % number) for number in range(250)
        ]
        assert len({identity for _, _, identity in messages}) == 250
        assert nothing_is_held(published)


async def test_a_burst_is_acknowledged_by_the_batch(world: World) -> None:
    async with publisher(world) as published:
        before = published._nc.stats["in_msgs"]
        publish(published, 1000)
        assert await published.flush(5) == 0
        assert published._nc.stats["in_msgs"] - before <= 3 * 10, "three answers for a hundred events"
        assert published.mode == "by the batch"
    assert await world.last_sequence() == 1000


async def test_a_lone_event_is_acknowledged_within_a_second(world: World, publishing: Publishing) -> None:
    async with publishing() as published:
        for number in range(3):
            publish(published, 1, start=number)
            assert await published.flush(1) == 0
        assert published.stats.published == 3


async def test_a_flush_ends_when_the_connection_is_closed_for_good_meanwhile(
    world: World, publishing: Publishing
) -> None:
    await delete_stream(world)
    async with publishing() as published, asyncio.timeout(10):
        publish(published, 1)
        flushing = asyncio.create_task(published.flush(60))
        await asyncio.sleep(0)
        await published._nc.close()
        assert await flushing == 1


async def test_two_tasks_never_share_an_id(world: World, publishing: Publishing) -> None:
    async with publishing() as one, publishing() as other:
        for number in range(10):
            publish(one, 50, start=number)
            publish(other, 50, start=number)
        assert await one.flush(5) == await other.flush(5) == 0
        assert one.stats.published == other.stats.published == 500
    assert len({identity for _, _, identity in await stored(world)}) == 1000


async def test_more_than_a_window_is_sent_as_acknowledgements_come(world: World, publishing: Publishing) -> None:
    async with publishing() as published:
        publish(published, WINDOW_MAX + 500)
        await asyncio.sleep(0)
        assert published._outbox.unacknowledged == WINDOW_MAX
        assert await published.flush(10) == 0
    assert await world.last_sequence() == WINDOW_MAX + 500


async def test_a_missing_stream_is_waited_for(world: World, publishing: Publishing) -> None:
    async with publishing() as published:
        await delete_stream(world)
        with capture_logs() as logs:
            publish(published, 100)
            await eventually(lambda: published.stalled is not None)
            assert published.stalled == "no stream takes the subject"
            sent = published._outbox.next_batch
            for number in range(100, 200):
                publish(published, 1, start=number)
                await asyncio.sleep(0.002)
            assert published._outbox.next_batch - sent < 10, "probes alone, whatever is published meanwhile"
            assert published.pending == 200
            assert await published.flush(0.2) == 200
            await restore_stream(world)
            assert await published.flush(10) == 0
        told = [(line["event"], line["pending"]) for line in logs if line["log_level"] != "debug"]
        assert [event for event, _ in told] == ["events are waiting", "events are flowing"]
        assert told[0] == ("events are waiting", 100)
        assert published.stalled is None
        assert (published.stats.published, published.stats.dropped) == (200, 0)
        assert [subject for subject, _, _ in await stored(world)] == subjects(200), "the oldest first"
        assert nothing_is_held(published)


async def test_a_full_stream_that_discards_new_is_waited_for(world: World, publishing: Publishing) -> None:
    async with publishing() as published, world.administrator() as admin:
        config = (await admin.stream_info(STREAM)).config
        config.discard, config.max_msgs = DiscardPolicy.NEW, 10
        await admin.update_stream(config)
        publish(published, 25)
        await eventually(lambda: published.stalled is not None)
        assert "maximum messages exceeded" in (published.stalled or "")
        mode = published.mode
        assert published.stats.published <= 10
        config.max_msgs = 1000
        await admin.update_stream(config)
        assert await published.flush(10) == 0
        assert published.stats.published == 25
        assert published.mode == mode, "that a stream refuses does not say that it takes no batches"
        assert nothing_is_held(published)
    assert await world.last_sequence() == 25


async def test_a_stalled_stream_gets_a_probe_now_and_then_and_no_storm(world: World) -> None:
    async with publisher(world) as published, world.administrator() as admin:
        await delete_stream(world)
        listening = await admin._nc.subscribe("customer.balance.*")
        publish(published, 1000)
        await eventually(lambda: published.stalled is not None)
        await roundtrip(published._nc)
        await asyncio.sleep(0.3)  # the backoff's first steps
        before, sent, began = published.stats.retried, published._outbox.next_batch, time.monotonic()
        for number in range(50):
            publish(published, 10, start=1000 + 10 * number)  # which is no reason to try it
            await asyncio.sleep(0.02)
        probes = (time.monotonic() - began) / (PROBE_MAX_S / 2) + 2
        assert published.stats.retried - before <= probes
        assert published._outbox.next_batch - sent <= probes
        assert listening.delivered >= 1


async def test_a_stream_is_not_probed_without_a_connection(world: World) -> None:
    async with publisher(world) as published:
        await delete_stream(world)
        publish(published, 1)
        await eventually(lambda: published.stalled is not None)
        nc = published._nc
        nc._status = Client.RECONNECTING
        sent = published._outbox.next_batch
        await asyncio.sleep(1.0)  # time for some
        assert published._outbox.next_batch == sent
        nc._status = Client.CONNECTED
        await eventually(lambda: published._outbox.next_batch > sent, what="a probe")


async def test_what_does_not_fit_is_dropped_and_counted(world: World, publishing: Publishing) -> None:
    async with publishing(max_events=50) as published:
        for round_ in range(1, 3):
            await delete_stream(world)
            with capture_logs() as logs:
                publish(published, 80)
            assert (published.pending, published.stats.dropped) == (50, 30 * round_)
            assert [line["event"] for line in logs] == ["events are being dropped"], "once for each time"
            await restore_stream(world)
            assert await published.flush(10) == 0
            publish(published, 1, start=1000)
            assert await published.flush(5) == 0
            assert published.stats.dropped == 30 * round_
            assert await world.last_sequence() == 51


async def test_bytes_are_bounded_too_and_given_back(world: World, publishing: Publishing) -> None:
    async with publishing(max_bytes=2_000) as published:
        await delete_stream(world)
        publish(published, 100)
        await eventually(lambda: published.stalled is not None)
        assert published._outbox.held_bytes <= 2_000
        taken = published.pending
        assert 0 < taken == 100 - published.stats.dropped < 100
        await restore_stream(world)
        assert await published.flush(10) == 0
        for _ in range(5):
            publish(published, taken)
            assert await published.flush(5) == 0
        assert published.stats.dropped == 100 - taken
        assert nothing_is_held(published)
    assert await world.last_sequence() == 6 * taken


async def test_a_silent_stream_is_asked_again_with_the_same_id(world: World, publishing: Publishing) -> None:
    """The first attempts are stored, but their acknowledgements are lost: the ids keep them from being stored twice."""
    async with publishing(timing=Timing(ack_wait_s=0.4)) as published:
        lost: list[Answer] = []
        heard = intercept(published, lost.append)
        await asyncio.sleep(0.05)  # halfway between two looks for overdue events, so that one look finds them all
        publish(published, 20)
        await eventually(
            lambda: published.stalled is not None, within_s=1.2, what="a stall, well before twice the wait"
        )
        assert "no acknowledgement" in (published.stalled or "")
        assert lost
        probes = published._outbox.next_batch
        await eventually(lambda: published._outbox.next_batch >= probes + 3, what="three probes")
        assert published._outbox.unacknowledged <= 1, "the oldest event, alone, each time"
        intercept(published, heard)
        assert await published.flush(10) == 0
        assert (published.stats.published, published.pending) == (20, 0)
        assert published.stats.retried >= 20
        for msg in lost:  # late, and for events that are held no longer
            heard(msg)
        assert published.stats.published == 20
        assert nothing_is_held(published)
    assert await world.last_sequence() == 20


async def test_an_answer_that_is_not_late_is_waited_for(world: World, publishing: Publishing) -> None:
    async with publishing(timing=Timing(ack_wait_s=1.0)) as published:
        answers = asyncio.Queue[Answer]()
        heard = intercept(published, answers.put_nowait)
        publish(published, 5)
        await asyncio.sleep(0.6)  # looked at twice meanwhile
        assert (published.stats.retried, published.stalled) == (0, None)
        while published.pending:
            heard(await answers.get())
        assert published.stats.retried == 0


async def test_only_what_is_overdue_is_sent_again(
    world: World, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with publishing(timing=Timing(ack_wait_s=0.2)) as published:

        def lose_the_third(msg: Answer) -> None:
            if published._publisher.number(msg.subject) != 2:
                heard(msg)

        heard = intercept(published, lose_the_third)
        stalls: list[str] = []
        monkeypatch.setattr(published, "_stall", stalls.append)
        publish(published, 500)
        await eventually(lambda: published.pending == published._publisher.batch_max)
        count = 500
        while published.pending:  # and the stream is not silent
            publish(published, 1, start=count)
            count += 1
            await asyncio.sleep(0.02)
        assert stalls == []
        assert published.stats.retried == published._publisher.batch_max
        assert published.stats.published == count
        assert nothing_is_held(published)
    assert await world.last_sequence() == count


async def test_nothing_is_sent_again_while_a_slow_stream_goes_on_answering(
    world: World, publishing: Publishing
) -> None:
    async with publishing(timing=Timing(ack_wait_s=0.2, late_s=0.1)) as published:
        answers = asyncio.Queue[Answer]()
        heard = intercept(published, answers.put_nowait)
        publish(published, 20 * published._publisher.batch_max)
        while published.pending:
            await asyncio.sleep(0.04)
            heard(await answers.get())
        assert (published.stats.retried, published.stalled) == (0, None)
        assert published.stats.published == 20 * published._publisher.batch_max
        assert published._window.size < WINDOW_MAX, "it gave way"


@pytest.mark.parametrize(
    "which", [".1.0.$FI", ".3.1.$FI", ".100.2.$FI"], ids=["its first event", "one in the middle", "its commit"]
)
async def test_a_batch_that_lost_an_event_is_completed(world: World, which: str) -> None:
    async with publisher(world, timing=Timing(ack_wait_s=0.3)) as published:
        lost = lose(published, lambda reply: reply.endswith(which) and "-1." in reply)
        publish(published, 350)
        assert await published.flush(10) == 0
        assert len(lost) == 1
        assert published.stats.published == 350
        assert published.stats.retried >= 1
        assert nothing_is_held(published)
    messages = await stored(world)
    assert sorted(subject for subject, _, _ in messages) == sorted(subjects(350))


async def test_a_connection_lost_in_the_middle_of_batches_loses_no_event(world: World, publishing: Publishing) -> None:
    async with publishing(timing=Timing(ack_wait_s=0.3)) as published:
        for number in range(20):
            publish(published, 130, start=number * 130)
            if number % 5 == 2:
                await asyncio.sleep(0)  # a part of it is written
                published._nc._transport._io_writer.transport.abort()  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        assert await published.flush(15) == 0
        assert published._nc.stats["reconnects"] >= 1
        assert (published.stats.published, published.stats.dropped) == (2600, 0)
        assert nothing_is_held(published)
    assert sorted(subject for subject, _, _ in await stored(world)) == sorted(subjects(2600))


async def test_on_a_connection_that_is_closed_events_are_held_and_nothing_raises(
    world: World, publishing: Publishing
) -> None:
    async with publishing() as published:
        await published._nc.close()
        publish(published, 10)
        await eventually(lambda: published.stalled is not None)
        async with asyncio.timeout(10):
            assert await published.flush(60) == 10, "on a connection that is closed for good nothing is waited for"


async def test_another_stream_that_takes_the_subject_does_not_acknowledge(world: World, publishing: Publishing) -> None:
    async with world.administrator() as admin:
        await delete_stream(world)
        await admin.add_stream(StreamConfig(name="other", subjects=["customer.balance.*"], allow_batched=True))
    async with publishing() as published:
        publish(published, 3)
        assert await published.flush(0.5) == 3
        assert published.stalled == "an acknowledgement, and not of stream customer-balances"
        assert published.stats.published == 0


async def test_a_stream_that_ceases_to_take_batches_gets_events_one_by_one(world: World) -> None:
    async with publisher(world) as published, world.administrator() as admin:
        publish(published, 150)
        assert await published.flush(5) == 0
        config = (await admin.stream_info(STREAM)).config
        config.allow_batched = False
        await admin.update_stream(config)
        publish(published, 350, start=150)
        assert await published.flush(10) == 0
        assert published.mode == "one by one"
        assert published.stats.published == 500
    assert [subject for subject, _, _ in await stored(world)] == subjects(500)


async def test_a_user_that_sees_the_ack_subjects_cannot_send_acks(world: World, publishing: Publishing) -> None:
    """User `viewer` may subscribe to events, and have JetStream's API answer to any subject."""
    async with publishing() as published, world.client("viewer") as viewer:
        answers = asyncio.Queue[Answer]()
        heard = intercept(published, answers.put_nowait)
        seen = await viewer.subscribe("customer.balance.*")
        await roundtrip(viewer)
        publish(published, 5)
        genuine = 2 if published.mode == "by the batch" else 5
        reply = (await seen.next_msg(timeout=10)).reply
        await eventually(lambda: answers.qsize() == genuine)
        acknowledgement = b'{"stream":"customer-balances","seq":5,"count":5}'
        await viewer.publish(reply, acknowledgement)
        await viewer.publish("$SRV.PING", b"", reply=reply)
        await viewer.publish("$JS.API.STREAM.INFO.customer-balances", b"", reply=reply)
        await viewer.publish("$JS.API.STREAM.MSG.GET.customer-balances", b'{"seq":1}', reply=reply)
        await viewer.publish("$JS.API.STREAM.MSG.GET.customer-balances", b'{"seq":99}', reply=reply)
        await viewer.publish("$JS.API.CONSUMER.INFO.customer-balances.none", b"", reply=reply)
        await roundtrip(viewer)
        await eventually(lambda: answers.qsize() >= genuine + 3, what="answers of JetStream's API")
        told = [await answers.get() for _ in range(genuine)]
        while not answers.empty():
            forged = await answers.get()
            assert forged.payload != acknowledgement.decode()
            heard(forged)
        assert (published.stats.published, published.pending, published.stalled) == (0, 5, None)
        for msg in told:
            heard(msg)
        assert (published.stats.published, published.pending, published.stalled) == (5, 0, None)
