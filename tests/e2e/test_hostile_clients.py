"""What a user with the least permissions must not be able to do to a task, each on the real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import orjson
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from local.servers import dynamodb
from local.system import Task
from service.contracts import customer as contract
from service.contracts.stream import EVENT_PREFIX, STREAM
from service.nats.connection import roundtrip
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal
from tests.support.nats.wire import hpub, pub, wire
from tests.support.world import Servers, World, eventually, get, make_world, metric, statistics

REQUEST = b'{"client_id":"7"}'


@pytest.fixture(scope="module")
async def served(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Task]]:
    """A world and its task, for the tests after which it is as it was: that is what they are about."""
    folder = tmp_path_factory.mktemp("hostile")
    async with make_world(servers, folder) as world, world.task(SEED_ROWS="20") as task:
        yield world, task


async def balance_of(client: Client, client_id: str = "7") -> bytes:
    reply = await client.request(contract.SUBJECT, orjson.dumps({"client_id": client_id}), timeout=3)
    return reply.data


@asynccontextmanager
async def seen_on(world: World, *subjects: str) -> AsyncIterator[Counter[str]]:
    seen: Counter[str] = Counter()

    async def look(msg: Msg) -> None:
        seen[msg.subject] += 1

    async with world.administrator() as admin:
        for subject in subjects:
            await admin._nc.subscribe(subject, cb=look)
        await roundtrip(admin._nc)
        yield seen
        await roundtrip(admin._nc)


# 1: the service's permissions


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
@pytest.mark.parametrize("suffix", ["", ".customer", ".customer.{id}"])
async def test_discovery_answers_to_an_inbox_alone(served: tuple[World, Task], verb: str, suffix: str) -> None:
    world, _ = served
    elsewhere = ["customer.balance.678", "$KV.config.seed", "$KV.config.seed-lease", "_INBOX_service.drill.1"]
    async with world.client() as client, seen_on(world, *elsewhere) as seen, world.administrator() as admin:
        (known,) = await statistics(client, 1)
        subject = f"$SRV.{verb}{suffix}".format(id=known["id"])
        for reply in elsewhere:
            await client.publish(subject, b"", reply=reply)
        # One subscription answers in order: when this is answered, the others were.
        await client.request(subject, timeout=3)
        with pytest.raises(NotFoundError):
            await admin.get_last_msg(STREAM, elsewhere[0])
    assert not seen


FORGED = (b'{"stream":"another","seq":1}', b'{"stream":null}', b"{}", b"[]", b"1")


async def test_only_the_stream_acknowledges(world: World) -> None:
    """Each time the event is sent, somebody else answers into the inbox: it stays unacknowledged, and is sent again."""
    answers = list(FORGED)

    async def forge(msg: Msg) -> None:
        if answers:
            await msg.respond(answers.pop(0))

    async with (
        # The drain would wait for the event, in vain.
        world.task(SHUTDOWN_TIMEOUT="2") as task,
        world.client() as client,
        world.administrator() as admin,
    ):
        await admin.delete_stream(STREAM)
        await admin._nc.subscribe(f"{EVENT_PREFIX}*", cb=forge)
        await roundtrip(admin._nc)
        assert (await balance_of(client)).startswith(b'{"balance"')

        async def sent_after_the_last() -> bool:
            return not answers and await metric(task, "balance_events_retried_total") >= len(FORGED)

        await eventually(sent_after_the_last, what="an answer to each attempt")
        assert "events are waiting" in task.child.log.read_text()
        assert await metric(task, "balance_events_published_total") == 0
        assert await metric(task, "balance_events_pending") == 1


async def test_an_acknowledgements_inbox_cannot_be_guessed(served: tuple[World, Task]) -> None:
    """The service's id is public, and a NUID is the one before it and an increment."""
    inboxes: list[str] = []

    async def look(msg: Msg) -> None:
        inboxes.append(msg.reply)

    world, _ = served
    async with world.client() as client, world.administrator() as admin:
        await admin._nc.subscribe(f"{EVENT_PREFIX}*", cb=look)
        await roundtrip(admin._nc)
        await balance_of(client)
        (known,) = await statistics(client, 1)
        await eventually(lambda: bool(inboxes))
    assert known["id"][:12] not in inboxes[0]


# 2: ending tasks


@pytest.mark.parametrize("reply", ["_authorization.x", "_X.Authentication.Expired", "_INBOX.authorization"])
async def test_a_permissions_violation_ends_no_task(served: tuple[World, Task], reply: str) -> None:
    world, task = served
    asked, logged = await metric(task, "balance_requests_total"), len(task.child.log.read_text().splitlines())
    async with world.client() as client:
        for _ in range(100):
            await client.publish(contract.SUBJECT, REQUEST, reply=reply)
        for _ in range(100):
            await client.publish(contract.SUBJECT, b"", reply=reply)
        await eventually(lambda: metric_at_least(task, asked + 200))
        for _ in range(20):
            await balance_of(client)
        assert task.child.process.returncode is None
        assert len(task.child.log.read_text().splitlines()) < logged + 20
        assert (await get(f"{task.health_url}/readyz"))[0] == 200


async def metric_at_least(task: Task, requests: float) -> bool:
    try:
        return await metric(task, "balance_requests_total") >= requests
    except OSError:
        return task.child.process.returncode is not None


# 3: silencing a task

UNDECODABLE = {
    "a reply that is not UTF-8": pub(b"customer.balance", REQUEST, b"_INBOX.\xff\xfe"),
    "a reply with a vertical tab": pub(b"customer.balance", REQUEST, b"_INBOX.a\x0bb"),
    "a reply with a form feed before a number": pub(b"customer.balance", REQUEST, b"_INBOX.a\x0c7"),
    "no header part": hpub(b"customer.balance", b"", REQUEST, b"_INBOX.x"),
    "a header part of one byte": hpub(b"customer.balance", b"N", REQUEST, b"_INBOX.x"),
    "a header part of eight bytes": hpub(b"customer.balance", b"NATS/1.0", REQUEST, b"_INBOX.x"),
    "a status of no characters": hpub(b"customer.balance", b"NATS/1.0 \xff\xff\xff\r\n\r\n", REQUEST, b"_INBOX.x"),
    "a description of none": hpub(b"customer.balance", b"NATS/1.0 503 \xff\xff\r\n\r\n", REQUEST, b"_INBOX.x"),
    "discovery with such a reply": pub(b"$SRV.PING", b"", b"_INBOX.\xff\xfe"),
    "discovery with such headers": hpub(b"$SRV.STATS.customer", b"N", b"", b"_INBOX.x"),
    "discovery of such an id": pub(b"$SRV.PING.customer.\xff", b"", b"_INBOX.x"),
}


@pytest.mark.parametrize("frame", [pytest.param(frame, id=name) for name, frame in UNDECODABLE.items()])
async def test_no_message_silences_a_task(served: tuple[World, Task], frame: bytes) -> None:
    world, task = served
    async with world.client() as client, wire(world.nats_url, world.creds("client")) as raw:
        raw.send(frame)
        assert await raw.roundtrip()
        assert raw.accepted == 1
        for _ in range(3):
            assert (await balance_of(client)).startswith(b'{"balance"')
        assert await metric(task, "balance_nats_reconnects_total") == 0
        assert "Traceback" not in task.child.log.read_text()


# 4: filling the log


async def ask_many(client: Client, client_id: str, count: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for _ in range(count // 20):
        replies = await asyncio.gather(
            *(client.request(contract.SUBJECT, orjson.dumps({"client_id": client_id}), timeout=5) for _ in range(20)),
            return_exceptions=True,
        )
        for reply in replies:
            assert isinstance(reply, Msg | nats.errors.Error)
            answer = reply.headers if isinstance(reply, Msg) else None
            outcomes[(answer or {}).get("Nats-Service-Error-Code", "OK") if isinstance(reply, Msg) else "lost"] += 1
    return outcomes


async def test_a_refusal_of_the_database_is_logged_once(world: World, proxy: FaultyDynamoDB) -> None:
    async with world.task(**proxy.env) as task, world.client() as client:
        proxy.fault = lambda action, call: refusal("AccessDeniedException")
        before = len(task.child.log.read_text().splitlines())
        outcomes = await ask_many(client, "7", 400)
        said = task.child.log.read_text()
        assert outcomes.total() == outcomes["500"] == 400
        assert "AccessDenied" in said
        assert "Traceback" not in said
        assert len(said.splitlines()) - before < 5


async def test_a_row_without_an_integer_is_logged_once(world: World) -> None:
    async with world.task() as task, world.client() as client:
        engine = dynamodb.client(world.servers.dynamodb_env)
        engine.put_item(TableName=world.table, Item={"id": {"S": "half"}, "client_balance": {"N": "12.5"}})
        before = len(task.child.log.read_text().splitlines())
        outcomes = await ask_many(client, "half", 400)
        said = task.child.log.read_text()
        assert outcomes.total() == outcomes["500"] == 400
        assert "Traceback" not in said
        assert len(said.splitlines()) - before < 5
