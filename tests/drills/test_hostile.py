"""A drill on requests that mean harm: whatever they are, the answer is a documented error, and nothing else happens."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from nats.aio.msg import Msg
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from service.contracts import customer as contract
from service.contracts.stream import EVENT_PREFIX, STREAM
from service.nats.connection import roundtrip
from tests.support.drills.drill import DOCUMENTED, Drill, Probe, answered, memory_mib, stored, words
from tests.support.world import World, eventually, metric, stop, tasks

pytestmark = pytest.mark.xdist_group("drills")

ELSEWHERE = [
    "customer.balance", "customer.balance.678", "$KV.config.seed", "$KV.config.seed-lease", "orders.created",
    f"$JS.API.STREAM.PURGE.{STREAM}", f"$JS.API.STREAM.DELETE.{STREAM}", "$SRV.PING", "$SYS.REQ.X",
    f"{contract.INBOX_PREFIX}.anyone.1", "",
]  # fmt: skip
"""Where a reply must not go."""
BAD_IDS = [
    "a.b", "*", ">", "1.>", "customer.balance.678", "$JS.API.INFO", "1\r\nPUB customer.balance.1 2\r\nxx", "1\n", " 1",
    "1 ", "NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n",
    "\u0000", "\u0085", "\u2028", "", "x" * 129, "x" * 100_000, "\t", "a\x7fb",
]  # fmt: skip
VALUES = [None, True, 678, 6.78, -0.0, [], ["678"], {}, {"S": "678"}, {"client_id": "678"}]

Attack = Callable[[random.Random], bytes]


def raw(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(0, 300))


def deep(chance: random.Random) -> bytes:
    depth = chance.choice([100, 1024, 5_000, 50_000])
    return chance.choice([b"[" * depth, b'{"client_id":' * depth, b"[" * depth + b"]" * depth])


def huge_number(chance: random.Random) -> bytes:
    number = chance.choice(["1e400", "-1e400", "9" * 5000, "0." + "1" * 5000, "1e-9999", "NaN", "Infinity"])
    return b'{"client_id":%s}' % number.encode()


def wrong_type(chance: random.Random) -> bytes:
    return orjson.dumps(chance.choice([{"client_id": chance.choice(VALUES)}, *VALUES[:-1]]))


def bad_id(chance: random.Random) -> bytes:
    return orjson.dumps({"client_id": chance.choice(BAD_IDS)})


def stranger(chance: random.Random) -> bytes:
    names = ["é", "💶", "__proto__", "null", "1'; DROP TABLE balances;--", "${jndi:ldap://x}", "../../etc/passwd"]
    return orjson.dumps(
        {"client_id": chance.choice(names).replace(".", "").replace(" ", "") + str(chance.random())[2:]}
    )


def broken(chance: random.Random) -> bytes:
    return chance.choice([
        b'{"client_id":"678"', b'{"client_id":"678"}}', b"{'client_id':'678'}", b'{"client_id":"\\ud800"}',
        b"\xef\xbb\xbf{}", b'{"client_id":"\xff"}', b'{"CLIENT_ID":"678"}', b"678", b'"678"', b" " * 1000,
    ])  # fmt: skip


def large(chance: random.Random) -> bytes:
    size = 1_000_000
    return chance.choice([chance.randbytes(size), b'{"client_id":"' + b"1" * (size - 20) + b'"}', b" " * size])


def valid(_chance: random.Random) -> bytes:
    return b'{"client_id":"678"}'


ATTACKS: list[Attack] = [raw, deep, huge_number, wrong_type, bad_id, stranger, broken]
HEADERS = [
    None, {"Nats-Msg-Id": "1"}, {"Nats-Expected-Stream": "x"}, {"traceparent": "00-zz"},
    {"Nats-Service-Error-Code": "200"}, {"a" * 500: "b" * 500},
]  # fmt: skip


@pytest.mark.drill(
    "100,000 hostile requests: bytes, deep JSON, huge numbers, wrong types, subjects and headers in ids, 1 MB, replies "
    "elsewhere",
    "a documented error each, service and neighbours unharmed, nothing published outside customer.balance.<known id>",
)
async def test_hostile(world: World, drill: Drill) -> None:
    count, larges = drill.pick((2_000, 4), (100_000, 100))
    chance = random.Random(count)
    async with tasks(world, 1) as (task,), world.client() as client, world.client() as neighbour, watch(world) as seen:
        balances = world.rows()
        probe = Probe(neighbour, balances)
        outcomes: Counter[str] = Counter()
        inbox = client.new_inbox()

        async def on_reply(msg: Msg) -> None:
            headers = msg.headers or {}
            documented = list(orjson.loads(msg.data)) == ["error"]
            kind = f"{headers.get(ERROR_CODE_HEADER)} {headers.get(ERROR_HEADER)}"
            outcomes[kind if documented else f"{kind} with {msg.data!r}"] += 1

        await client.subscribe(f"{inbox}.*", cb=on_reply)
        before = memory_mib(task)
        astray = 0
        async with probe.at(50):
            for number in range(count):
                attack: Attack = large if number % (count // larges) == 0 else chance.choice(ATTACKS)
                reply = f"{inbox}.{number}"
                if chance.random() < 0.05:
                    reply = chance.choice(ELSEWHERE)
                    attack = chance.choice([attack, valid])
                    astray += 1
                await client.publish(contract.SUBJECT, attack(chance), reply=reply, headers=chance.choice(HEADERS))
                if number % 100 == 0:  # fewer in flight than a task takes: else there is no responder
                    await eventually(lambda at=number - astray: outcomes.total() >= at - 300)
            await roundtrip(client)
            await eventually(lambda: outcomes.total() == count - astray, what="a reply to each")
        assert await metric(task, "balance_requests_in_flight") == 0
        # One more would be a reply that went to the requests' own subject.
        assert await metric(task, "balance_requests_total") == count + probe.outcomes.total()
        answers = await answered(task)
        grown = memory_mib(task) - before
        await stop(task)
        await stored(world, answers)
    strange = {
        subject: number for subject, number in seen.items() if subject.removeprefix(EVENT_PREFIX) not in balances
    }
    drill.found(
        f"{count:,} requests, {astray:,} of them with replies elsewhere: {words(outcomes)}; "
        f"{words(probe.outcomes)} of the neighbour's; memory {grown:+.1f} MiB; published elsewhere: {words(strange)}"
    )
    assert outcomes.keys() <= DOCUMENTED - {"503 UNAVAILABLE", "500 INTERNAL_ERROR"}
    assert outcomes["403 BAD_REQUEST"] > 0.5 * count
    assert probe.outcomes.keys() == {"OK"}
    assert strange == {}
    assert answers == probe.outcomes["OK"]
    assert grown < 60


@asynccontextmanager
async def watch(world: World) -> AsyncIterator[Counter[str]]:
    """What is published where the replies were asked to go, and to any event's subject.

    Not `>`: the payloads of the requests themselves would be delivered here too. What goes to their own subject is seen
    in the task's count of them.
    """
    seen: Counter[str] = Counter()

    async def look(msg: Msg) -> None:
        seen[msg.subject] += 1

    async with world.administrator() as admin:
        watched = {subject for subject in ELSEWHERE if subject and not subject.startswith(contract.SUBJECT)}
        for subject in (f"{EVENT_PREFIX}>", *watched):
            await admin._nc.subscribe(subject, cb=look)
        await roundtrip(admin._nc)
        yield seen
        await roundtrip(admin._nc)
