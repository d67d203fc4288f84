"""Raw frames: what they ask for is what arrives, and each reply is counted for what it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.micro.request import ERROR_CODE_HEADER

from benchmark.errors import BenchmarkError
from benchmark.load import generators
from benchmark.load.endpoints import WRONG_SHAPE
from benchmark.load.frames import ODD, ODD_EVERY, replies, requests
from benchmark.load.job import Closed, Frames, Job, NatsTarget, Open
from benchmark.load.loops import TIMEOUT
from benchmark.load.totals import Totals
from benchmark.load.transport import NO_RESPONDERS
from service.contracts import customer as contract
from service.contracts.requests import QUEUE_GROUP
from service.nats.connection import roundtrip
from tests.support.world import World

UNKNOWN, INVALID = b'{"client_id":"unknown"}', b'{"client_id":'


async def put_on(world: World, frames: Frames, count: int, timeout_s: float = 5.0, user: str = "client") -> Totals:
    target = NatsTarget(servers=[world.nats_url], creds=world.creds(user))
    loop = Closed(requests=count, concurrency=10)
    job = Job(target=target, loop=loop, timeout_s=timeout_s, ids=7, frames=frames)
    return await generators.run(job, processes=1)


@asynccontextmanager
async def answering(world: World, answers: dict[bytes, tuple[bytes, str]]) -> AsyncIterator[list[Msg]]:
    """Yields the requests that came. `answers`: reply and error code by payload; others are answered rightly."""
    came: list[Msg] = []

    async def on_request(msg: Msg) -> None:
        came.append(msg)
        reply, code = answers.get(msg.data, (b'{"balance":-5}', ""))
        if reply:
            await client.publish(msg.reply, reply, headers={ERROR_CODE_HEADER: code} if code else None)

    async with world.client("service") as client:
        await client.subscribe(contract.SUBJECT, queue=QUEUE_GROUP, cb=on_request)
        await roundtrip(client)
        yield came


async def test_plain_ones_ask_for_the_ids_in_turn(world: World) -> None:
    async with answering(world, {}) as came:
        totals = await put_on(world, "plain", 700)
    assert (totals.sent, totals.replies, totals.errors, totals.in_flight) == (700, 700, {}, 0)
    assert Counter(orjson.loads(msg.data)["client_id"] for msg in came) == {str(number): 100 for number in range(1, 8)}
    assert {msg.headers is None for msg in came} == {True}
    assert totals.histogram.get_total_count() == 700


async def test_traced_ones_have_a_traceparent_each(world: World) -> None:
    async with answering(world, {}) as came:
        totals = await put_on(world, "traceparent", 50)
    assert (totals.replies, totals.errors) == (50, {})
    assert {(msg.headers or {})["traceparent"].count("-") for msg in came} == {3}


async def test_one_in_a_hundred_is_odd_and_answered_as_it_must_be(world: World) -> None:
    answers = {UNKNOWN: (b"{}", "404"), INVALID: (b"{}", "403")}
    async with answering(world, answers) as came:
        totals = await put_on(world, "odd", 2_000)
    assert (totals.replies, totals.errors) == (2_000, {})
    payloads = Counter(msg.data for msg in came)
    assert (payloads[UNKNOWN], payloads[INVALID]) == (4, 4)
    assert sum(b"\r\n" in msg.data and orjson.loads(msg.data) == {"client_id": "1"} for msg in came) == 4
    assert sum(msg.headers is not None for msg in came) == 4


def test_each_kind_of_odd_one_comes_in_turn_and_one_leaves_in_two_writes() -> None:
    kinds = list(islice(requests("odd", iter("12")), ODD_EVERY - 1, 10 * ODD_EVERY, ODD_EVERY))
    assert kinds == [*ODD, *ODD]
    assert sum(each.is_split for each in ODD) == 1
    assert not any(each in ODD for each in islice(requests("odd", iter("23")), ODD_EVERY - 1))


async def test_what_is_no_right_reply_is_an_error_of_its_kind(world: World) -> None:
    answers = {
        b'{"client_id":"2"}': (b'{"balance":"2"}', ""), b'{"client_id":"3"}': (b"{}", "503"),
        b'{"client_id":"4"}': (b"", ""),
    }  # fmt: skip
    async with answering(world, answers):
        totals = await put_on(world, "plain", 7, timeout_s=0.3)
    assert (totals.replies, totals.errors) == (4, {WRONG_SHAPE: 1, "503": 1, "timeout": 1})
    totals = await put_on(world, "plain", 3)
    assert (totals.replies, totals.errors) == (0, {NO_RESPONDERS: 3})


async def test_an_open_loop_sends_each_in_its_time_and_gives_up_on_what_is_not_answered(world: World) -> None:
    third = {b'{"client_id":"3"}': (b"", "")}
    target = NatsTarget(servers=[world.nats_url], creds=world.creds("client"))
    loop = Open(rate=700, duration_s=1.0)
    job = Job(target=target, loop=loop, timeout_s=0.5, ids=7, frames="plain")
    async with answering(world, third) as came:
        totals = await generators.run(job, processes=2)
    assert (totals.sent, totals.replies, totals.errors, totals.in_flight) == (700, 600, {TIMEOUT: 100}, 0)
    assert Counter(orjson.loads(msg.data)["client_id"] for msg in came) == {str(number): 100 for number in range(1, 8)}
    assert totals.last_done - totals.started_at >= 1.0, "it kept its rate"
    totals = await generators.run(job, processes=1)
    assert (totals.sent, totals.replies, totals.errors) == (700, 0, {NO_RESPONDERS: 700})


async def test_an_unknown_one_that_is_answered_with_a_balance_is_an_error(world: World) -> None:
    async with answering(world, {INVALID: (b"{}", "403")}):
        totals = await put_on(world, "odd", 200)
    assert totals.errors == {"": 1}


async def test_what_the_server_refuses_ends_it(world: World) -> None:
    with pytest.raises(BenchmarkError, match=r'Permissions Violation for Subscription to "_INBOX'):
        await put_on(world, "plain", 3, user="service")


STREAM = (
    b'MSG _INBOX.a.1 1 14\r\n{"balance":-5}\r\nPING\r\n'
    b"HMSG _INBOX.a.2 1 42 44\r\nNATS/1.0\r\nNats-Service-Error-Code: 404\r\n\r\n{}\r\n"
    b'MSG _INBOX.a.3 1 38\r\n{}\r\nMSG _INBOX.a.9 1 13\r\n{"balance":5}\r\n'
    b'MSG _INBOX.a.4 1 13\r\n{"balance":5}\r\n'
)


@given(st.lists(st.integers(0, len(STREAM))))
def test_replies_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    """A payload that holds a frame is no frame."""
    found, rest, begin = [], b"", 0
    for end in [*sorted(cuts), len(STREAM)]:
        data = rest + STREAM[begin:end]
        more, at = replies(data)
        found += more
        rest, begin = data[at:], end
    assert found == [(b"1", ""), (b"2", "404"), (b"3", WRONG_SHAPE), (b"4", "")]
    assert rest == b""
