"""What the server is sent, as a subscriber of the events' subjects sees it."""

from __future__ import annotations

import re

import pytest

from service.customer.events.event import ID_LENGTH
from service.customer.events.outbox import Outbox
from service.customer.events.publisher import BATCHED, SINGLE, Mode, Publisher
from service.nats.client import NatsClient
from service.nats.connection import roundtrip
from tests.support.world import World

SECRET = r"_INBOX_service\.([0-9a-f]{32})\.([0-9a-f]{16})-0"


async def sent(world: World, mode: Mode, count: int) -> list[tuple[str, dict[str, str]]]:
    """Each message's reply subject and headers."""
    outbox = Outbox(1000, 1_000_000)
    for number in range(count):
        context = {"traceparent": "00-context", "tracestate": "a=1"} if number else None
        client_id = f"c{number}ü" if number % 2 else f"c{number}"
        outbox.add([f"customer.balance.{client_id}"], ['{"balance":1}'], context)
    async with world.client("service") as client, world.administrator() as admin:
        assert isinstance(client, NatsClient)
        heard = await admin._nc.subscribe("customer.balance.*")
        await roundtrip(admin._nc)
        publisher = Publisher(client, outbox.id)
        publisher.mode = mode
        batch = outbox.take(count, 0.0)
        publisher.send(batch)
        messages = [await heard.next_msg(timeout=10) for _ in range(count)]
        assert [msg.subject for msg in messages] == [event[1] for event in batch.events]
        assert {msg.data for msg in messages} == {b'{"balance":1}'}
        assert {publisher.number(msg.reply) for msg in messages} == {0}
    return [(msg.reply, msg.headers or {}) for msg in messages]


@pytest.mark.parametrize(
    ("count", "ends"),
    [
        (1, [""]),
        (2, [".50.fail.1.0.$FI", ".50.fail.2.2.$FI"]),
        (4, [".50.fail.1.0.$FI", ".50.fail.2.1.$FI", ".50.fail.3.1.$FI", ".50.fail.4.2.$FI"]),
    ],
)
async def test_the_last_of_a_batch_commits_what_the_first_began(world: World, count: int, ends: list[str]) -> None:
    replies = [reply for reply, _ in await sent(world, BATCHED, count)]
    (inbox,) = {reply.removesuffix(end) for reply, end in zip(replies, ends, strict=True)}
    assert re.fullmatch(SECRET, inbox)


async def test_one_by_one_each_has_an_inbox_of_the_same_kind(world: World) -> None:
    ((reply, _),) = await sent(world, SINGLE, 1)
    assert re.fullmatch(SECRET, reply)


async def test_a_batch_has_a_hundred_events_or_one(world: World) -> None:
    """A hundred is the most of which nats-server acknowledges all at once."""
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)
        publisher = Publisher(client, Outbox(1, 1).id)
        assert publisher.batch_max == 1
        publisher.mode = BATCHED
        assert publisher.batch_max == 100


async def test_nobody_can_guess_where_acknowledgements_go(world: World) -> None:
    """Not from another task's inbox, nor from the ids that everyone sees in the stream."""
    inboxes = [re.match(SECRET, reply) for _ in range(2) for reply, _ in await sent(world, BATCHED, 1)]
    secrets = [inbox.groups() for inbox in inboxes if inbox]
    assert len({part for pair in secrets for part in pair}) == 4


async def test_the_headers_are_the_id_and_the_requests_context(world: World) -> None:
    (_, first), (_, second) = await sent(world, BATCHED, 2)
    assert first.keys() == {"Nats-Msg-Id"}
    assert (second["traceparent"], second["tracestate"]) == ("00-context", "a=1")
    assert first["Nats-Msg-Id"] != second["Nats-Msg-Id"]


async def test_an_answer_to_another_subject_is_about_no_batch(world: World) -> None:
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)
        publisher = Publisher(client, Outbox(1, 1).id)
        for subject in ("", f"{publisher._inbox}.", f"{publisher._inbox}.x-", f"{publisher._inbox}.x-one"):
            assert publisher.number(subject) == -1


async def test_an_event_with_an_id_of_its_own_stands_among_the_others(world: World) -> None:
    """Its headers have the length of theirs, so that a batch is written by one join."""
    outbox, own = Outbox(1000, 1_000_000), "a" * ID_LENGTH
    outbox.add(["customer.balance.1"], ["x"], None)
    outbox.add(["customer.balance.2", "customer.adjusted.2"], ["y", "z"], {"traceparent": "00"}, [own, "b" * ID_LENGTH])
    async with world.client("service") as client, world.administrator() as admin:
        assert isinstance(client, NatsClient)
        heard = await admin._nc.subscribe("customer.*.*")
        await roundtrip(admin._nc)
        Publisher(client, outbox.id).send(outbox.take(3, 0.0))
        messages = [await heard.next_msg(timeout=10) for _ in range(3)]
    assert [(msg.subject, msg.data) for msg in messages] == [
        ("customer.balance.1", b"x"), ("customer.balance.2", b"y"), ("customer.adjusted.2", b"z"),
    ]  # fmt: skip
    ids = [(msg.headers or {})["Nats-Msg-Id"] for msg in messages]
    assert (len(ids[0]), ids[1:]) == (ID_LENGTH, [own, "b" * ID_LENGTH])
