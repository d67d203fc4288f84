"""What the other roles have still to take, and nothing where it cannot be told."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
import pytest
from nats.aio.client import RawCredentials
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from structlog.testing import capture_logs

from control_plane.auth import claims
from control_plane.desired import SERVICE
from service.contracts import customer as contract
from service.contracts import queue
from service.contracts.stream import ARCHIVE_CONSUMER, QUEUE_CONSUMER, QUEUE_DEAD_STREAM, STREAM
from service.customer import backlog
from service.customer.backlog import FIGURES_LEFT_OUT, UNITS, BacklogReader
from service.nats import permissions
from service.nats.client import NatsClient
from service.runtime.background import background
from service.runtime.cancel import cancel
from tests.support.check import check
from tests.support.world import World, eventually

CONSUMERS = {"Archive": ARCHIVE_CONSUMER, "Queue": QUEUE_CONSUMER}
EARLIER = (*contract.NEEDED, f"$JS.API.CONSUMER.INFO.{STREAM}.{ARCHIVE_CONSUMER}")
"""What the first version's accounts let the role publish to."""


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "POLL_S", 0.02)


@asynccontextmanager
async def running(client: Any) -> AsyncIterator[BacklogReader]:
    reader = BacklogReader(client)
    task = background(reader.run(), "backlog")
    try:
        yield reader
    finally:
        await cancel(task)


@asynccontextmanager
async def watching(world: World) -> AsyncIterator[tuple[BacklogReader, JetStreamContext]]:
    async with world.client("service") as client, world.administrator() as admin, running(client) as reader:
        yield reader, admin


def values(reader: BacklogReader) -> dict[str, float]:
    return {name: value for name, (value, _) in reader.figures().items()}


async def become(reader: BacklogReader, **wanted: float) -> None:
    await eventually(lambda: wanted.items() <= values(reader).items(), what=f"{wanted}, not {values(reader)}")


async def publish(admin: JetStreamContext, count: int) -> None:
    for number in range(count):
        await admin.publish(f"{contract.SUBJECT}.{number}", b"{}")


async def take(admin: JetStreamContext, consumer: str, count: int) -> list[Msg]:
    pull = await admin.pull_subscribe_bind(consumer, STREAM)
    return list(await pull.fetch(count, timeout=10))


async def test_each_consumer_and_its_dead_letters_have_their_figures(world: World) -> None:
    async with watching(world) as (reader, admin):
        nothing = dict.fromkeys(UNITS, 0)
        await become(reader, **nothing)
        assert {name: unit for name, (_, unit) in reader.figures().items()} == UNITS
        await publish(admin, 3)
        await admin.publish(f"{queue.DEAD_SUBJECT}.{queue.STREAM}", b"poison")
        await become(reader, ArchiveBacklog=3, QueueBacklog=3, QueueDeadLetters=1)
        for message in await take(admin, ARCHIVE_CONSUMER, 3):
            await message.ack_sync()
        await become(reader, ArchiveBacklog=0, ArchiveOldest=0, QueueBacklog=3)


async def asked(admin: JetStreamContext, subject: str) -> Any:
    return orjson.loads((await admin._nc.request(f"$JS.API.{subject}", timeout=10)).data)


async def is_oldest(reader: BacklogReader, admin: JetStreamContext, role: str, sequence: int) -> bool:
    """Whether the age is this message's, by the times that the server gives before and after."""
    stored = (await admin.get_msg(STREAM, sequence)).time
    assert stored
    stored_at = stored

    async def age_s() -> float:
        now = (await asked(admin, f"STREAM.INFO.{STREAM}"))["ts"]
        return (datetime.fromisoformat(now) - stored_at).total_seconds()

    least_s = await age_s()
    figures = await reader._of(role, CONSUMERS[role])
    return least_s <= figures[f"{role}Oldest"] <= await age_s()


@pytest.mark.parametrize("role", CONSUMERS)
async def test_the_oldest_is_the_first_that_is_not_acknowledged(world: World, role: str) -> None:
    async with watching(world) as (reader, admin):
        await become(reader, **dict.fromkeys(UNITS, 0))
        await publish(admin, 4)
        assert await is_oldest(reader, admin, role, 1)
        messages = await take(admin, CONSUMERS[role], 3)
        assert await is_oldest(reader, admin, role, 1), "what is held is not acknowledged"
        await messages[1].ack_sync()
        assert await is_oldest(reader, admin, role, 1), "acknowledged out of turn"
        await messages[0].ack_sync()
        assert await is_oldest(reader, admin, role, 3)
        await messages[2].ack_sync()
        assert await is_oldest(reader, admin, role, 4), "the one that waits"


@pytest.mark.parametrize("role", CONSUMERS)
async def test_the_oldest_is_one_that_the_stream_still_has(world: World, role: str) -> None:
    """The consumer's acknowledgement floor lies before the stream's first message."""
    async with watching(world) as (reader, admin):
        await become(reader, **dict.fromkeys(UNITS, 0))
        await publish(admin, 5)
        await admin.purge_stream(STREAM, seq=4)
        assert await is_oldest(reader, admin, role, 4)
        await take(admin, CONSUMERS[role], 2)
        await admin.delete_msg(STREAM, 4)
        assert await is_oldest(reader, admin, role, 5)
        await admin.purge_stream(STREAM)
        await become(reader, **{f"{role}Oldest": 0})


async def test_of_a_consumer_with_a_filter_only_its_own_messages_are_old(world: World) -> None:
    async with watching(world) as (reader, admin):
        await become(reader, **dict.fromkeys(UNITS, 0))
        config = (await admin.consumer_info(STREAM, QUEUE_CONSUMER)).config
        await admin.delete_consumer(STREAM, QUEUE_CONSUMER)
        await admin.add_consumer(STREAM, replace(config, filter_subject=f"{contract.SUBJECT}.2"))
        await publish(admin, 4)
        assert await is_oldest(reader, admin, "Queue", 3)


async def again(admin: JetStreamContext, **config: Any) -> None:
    """Make the queue's consumer again, with this."""
    await admin.delete_consumer(STREAM, QUEUE_CONSUMER)
    made = {"durable_name": QUEUE_CONSUMER, "ack_policy": "explicit", "ack_wait": 60 * 10**9, **config}
    subject = f"$JS.API.CONSUMER.CREATE.{STREAM}.{QUEUE_CONSUMER}"
    request = orjson.dumps({"stream_name": STREAM, "config": made})
    answer = orjson.loads((await admin._nc.request(subject, request, timeout=10)).data)
    assert "error" not in answer


async def test_of_a_consumer_with_filters_only_their_messages_are_old(world: World) -> None:
    async with watching(world) as (reader, admin):
        await again(admin, filter_subjects=[f"{contract.SUBJECT}.3", f"{contract.SUBJECT}.2"])
        await publish(admin, 5)
        assert await is_oldest(reader, admin, "Queue", 3)
        (first,) = await take(admin, QUEUE_CONSUMER, 1)
        await first.ack_sync()
        assert await is_oldest(reader, admin, "Queue", 4)


async def test_what_a_consumer_has_given_up_is_not_old(world: World) -> None:
    """The server keeps the acknowledgement floor before it while others are held, and does not tell which they are."""
    async with watching(world) as (reader, admin):
        await publish(admin, 3)
        await become(reader, QueueBacklog=3)  # the 2 below is then none that was read between two of these
        await again(admin, max_deliver=1)
        assert await is_oldest(reader, admin, "Queue", 1)
        await take(admin, QUEUE_CONSUMER, 1)
        assert (await reader._of("Queue", QUEUE_CONSUMER)).keys() == {"QueueBacklog"}, "held, or given up"
        await again(admin, max_deliver=1, ack_wait=10**9)
        await take(admin, QUEUE_CONSUMER, 1)
        await become(reader, QueueBacklog=2)
        info = await asked(admin, f"CONSUMER.INFO.{STREAM}.{QUEUE_CONSUMER}")
        assert info["ack_floor"]["stream_seq"] == 0, "the server holds it there"
        assert await is_oldest(reader, admin, "Queue", 2)
        await take(admin, QUEUE_CONSUMER, 2)
        await become(reader, QueueBacklog=0, QueueOldest=0)


async def test_what_is_not_there_has_no_figure_and_the_others_have_theirs(world: World) -> None:
    async with watching(world) as (reader, admin):
        await become(reader, **dict.fromkeys(UNITS, 0))
        await admin.delete_consumer(STREAM, QUEUE_CONSUMER)
        await eventually(lambda: "QueueBacklog" not in values(reader), what="no consumer `queue`")
        assert {"ArchiveBacklog", "ArchiveOldest", "QueueDeadLetters"} <= values(reader).keys()
        await admin.delete_stream(QUEUE_DEAD_STREAM)
        await eventually(lambda: "QueueDeadLetters" not in values(reader), what="no stream `queue-dead`")
        await admin.delete_consumer(STREAM, ARCHIVE_CONSUMER)
        await eventually(lambda: reader.figures() == {}, what="no consumer `archive`")


async def test_an_answer_that_cannot_be_read_is_no_figure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(world) as (reader, admin):
        await publish(admin, 3)
        await become(reader, ArchiveBacklog=3)

        async def garbled(*_: Any) -> Any:
            raise ValueError("no JSON")

        ask = BacklogReader._ask
        monkeypatch.setattr(BacklogReader, "_ask", garbled)
        await eventually(lambda: reader.figures() == {}, what="no figure")
        monkeypatch.setattr(BacklogReader, "_ask", ask)
        await become(reader, ArchiveBacklog=3)


@pytest.mark.parametrize("ts", [None, "soon", 5])
async def test_without_the_servers_time_the_other_figures_are_there(
    world: World, monkeypatch: pytest.MonkeyPatch, ts: Any
) -> None:
    ask = BacklogReader._ask

    async def without_time(reader: BacklogReader, subject: str, request: bytes = b"") -> Any:
        answer = await ask(reader, subject, request)
        answer.pop("ts", None)
        return answer if ts is None else {**answer, "ts": ts}

    monkeypatch.setattr(BacklogReader, "_ask", without_time)
    async with watching(world) as (reader, admin):
        await publish(admin, 3)
        await become(reader, ArchiveBacklog=3, ArchiveUnconfirmed=0, QueueBacklog=3, QueueDeadLetters=0)
        assert values(reader).keys().isdisjoint({"ArchiveOldest", "QueueOldest"})


@pytest.mark.parametrize(
    "odd",
    [
        [], 5, {"data": []}, {"data": {"permissions": "x"}}, {"data": {"permissions": ["x"]}},
        {"data": {"permissions": {"publish": ["x"]}}}, {"data": {"permissions": {"publish": {"allow": 5}}}},
        {"data": {"permissions": {"subscribe": {"deny": [5]}}}},
    ],
)  # fmt: skip
async def test_an_odd_answer_about_the_permissions_is_ignored(world: World, odd: Any) -> None:
    async with world.client("service") as client:

        class Odd:
            async def request(self, subject: str, *args: Any, **options: Any) -> Any:
                if subject == permissions.USER_INFO:
                    return Msg(client, data=orjson.dumps(odd))
                return await client.request(subject, *args, **options)

        async with running(Odd()) as reader:
            await become(reader, ArchiveBacklog=0, ArchiveUnconfirmed=0)


@asynccontextmanager
async def earlier(world: World, *publish: str) -> AsyncIterator[tuple[BacklogReader, list[str]]]:
    """With an account of the first version, and what the server complains of."""
    user = replace(SERVICE, publish=publish)
    complaints: list[str] = []

    async def note(error: Exception) -> None:
        complaints.append(str(error))

    client = NatsClient(lambda _: None, lambda: None)
    creds = claims.mint_creds(user, world.account, account=world.account.public)
    await client.connect(
        world.nats_url, user_credentials=RawCredentials(creds), inbox_prefix=contract.INBOX_PREFIX, error_cb=note
    )
    try:
        async with running(client) as reader:
            yield reader, complaints
    finally:
        await client.close()


async def test_an_account_of_an_earlier_version_has_the_figures_that_it_may_have(world: World) -> None:
    with capture_logs() as logs:
        async with earlier(world, *EARLIER) as (reader, complaints):
            await become(reader, ArchiveBacklog=0, ArchiveUnconfirmed=0)
            await several_readings(reader)
            assert values(reader).keys() == {"ArchiveBacklog", "ArchiveUnconfirmed"}
            assert complaints == [], "what it may not ask is not asked"
    told = [record for record in logs if record["event"] == FIGURES_LEFT_OUT]
    assert [record["log_level"] for record in told] == ["info"]
    assert set(told[0]["subjects"]) == set(contract.FIGURES) - set(EARLIER)


async def test_where_the_server_does_not_tell_the_permissions_it_is_asked_what_it_always_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, "USER_INFO_S", 0.2)
    untold = [subject for subject in EARLIER if subject != permissions.USER_INFO]
    async with earlier(world, *untold) as (reader, complaints):
        await become(reader, ArchiveBacklog=0)
        await several_readings(reader)
        assert values(reader).keys() == {"ArchiveBacklog", "ArchiveUnconfirmed"}
        assert len(complaints) == 1, "of the one question"


async def test_permissions_that_are_given_later_are_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "PERMISSIONS_S", 0.05)
    async with watching(world) as (reader, _):
        reader._permissions, reader._asked_s = {"publish": {"allow": ["nothing"]}}, float("inf")
        await eventually(lambda: reader.figures() == {}, what="no figure")
        reader._asked_s = 0
        await become(reader, **dict.fromkeys(UNITS, 0))


async def several_readings(reader: BacklogReader) -> None:
    for _ in range(3):
        before = reader._read[ARCHIVE_CONSUMER]
        await eventually(
            lambda before=before: reader._read[ARCHIVE_CONSUMER] is not before,
            what="another reading",
        )


async def test_a_task_serves_with_an_account_of_an_earlier_version_and_check_says_what_is_left_out(
    world: World,
) -> None:
    creds = claims.mint_creds(replace(SERVICE, publish=EARLIER), world.account, account=world.account.public)
    env = {"NATS_CREDENTIALS": base64.b64encode(creds.encode()).decode()}
    async with world.task(**env) as task, world.client() as client:
        reply = await client.request(contract.SUBJECT, b'{"client_id":"1"}', timeout=5)
        assert b"balance" in reply.data
        assert "NATS error" not in task.child.log.read_text()
    code, lines = await check(world, **env)
    assert code == 0
    (line,) = [line for line in lines if " permissions" in line]
    assert f"$JS.API.STREAM.MSG.GET.{STREAM}, " in line
    assert line.endswith(FIGURES_LEFT_OUT)
