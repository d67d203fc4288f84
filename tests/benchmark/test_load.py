"""Loads on a responder that does to each request what the test wants."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from nats.aio.msg import Msg
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from benchmark.errors import BenchmarkError
from benchmark.load import generators
from benchmark.load.job import Closed, GatewayTarget, Job, Loop, NatsTarget, Open, Target
from benchmark.load.totals import Totals
from benchmark.report.measured import Latency
from local.gateway.server import gateway
from local.process import claim_port
from service.contracts import customer as contract
from service.contracts.requests import QUEUE_GROUP
from service.nats.connection import roundtrip
from tests.support.world import World

TOKEN = "nhg_thetokenofclient"
Answer = Callable[[str, Msg], Coroutine[Any, Any, None]]


@asynccontextmanager
async def responder(world: World, answer: Answer) -> AsyncIterator[None]:
    """In the service's place, with its user: each request is answered by a task of its own."""
    tasks: set[asyncio.Task[None]] = set()

    async def on_request(msg: Msg) -> None:
        task = asyncio.create_task(answer(orjson.loads(msg.data)["client_id"], msg))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with world.client("service") as client:
        await client.subscribe(contract.SUBJECT, queue=QUEUE_GROUP, cb=on_request)
        await roundtrip(client)
        yield
        for task in tasks:
            task.cancel()


def over_nats(world: World) -> NatsTarget:
    return NatsTarget(servers=[world.nats_url], creds=world.creds("client"))


async def put_on(target: Target, loop: Loop, *, ids: int = 1000, processes: int = 2, timeout_s: float = 5.0,
                 expected: dict[str, int] | None = None, stop: asyncio.Event | None = None,
                 on_tick: Callable[[Totals], None] = lambda _: None) -> Totals:  # fmt: skip
    job = Job(target=target, loop=loop, timeout_s=timeout_s, ids=ids, expected=expected)
    return await generators.run(job, processes=processes, stop=stop, on_tick=on_tick)


async def right(client_id: str, msg: Msg) -> None:
    await msg.respond(b'{"balance":%d}' % int(client_id))


def refused(code: str, text: str) -> dict[str, str]:
    return {ERROR_CODE_HEADER: code, ERROR_HEADER: text}


async def every_kind(client_id: str, msg: Msg) -> None:
    """What a service may do to a request, by the client that is asked for; 1 and 2 are answered rightly."""
    match client_id:
        case "3":
            await msg._client.publish(msg.reply, b'{"error":"x"}', headers=refused("403", "BAD_REQUEST"))
        case "4":
            await msg._client.publish(msg.reply, b'{"error":"x"}', headers=refused("503", "UNAVAILABLE"))
        case "5":
            await msg.respond(b'{"balance":"5"}')
        case "6":
            pass  # never answered
        case "7":
            await asyncio.sleep(0.8)  # after its time-out
            await right(client_id, msg)
        case "8":
            await right(client_id, msg)
            await right(client_id, msg)  # twice
        case "9":
            await msg.respond(b'{"balance":1}')
        case _:
            await right(client_id, msg)


EVERY_KIND = {"403 BAD_REQUEST": 1, "503 UNAVAILABLE": 1, "wrong shape": 1, "timeout": 2, "wrong balance": 1}
BALANCES = {str(number): number for number in range(1, 10)}


async def test_every_kind_of_error_is_counted_once(world: World) -> None:
    async with responder(world, every_kind):
        totals = await put_on(
            over_nats(world), Closed(requests=9, concurrency=9), ids=9, timeout_s=0.5, expected=BALANCES
        )
    assert (totals.sent, totals.replies, totals.in_flight) == (9, 3, 0)
    assert totals.errors == EVERY_KIND
    assert totals.histogram.get_total_count() == 5, "right replies, and time-outs at the time they took"
    assert 490 < Latency.of(totals.histogram).max_ms < 800


async def test_every_kind_over_the_gateway(world: World) -> None:
    async with responder(world, every_kind), gateway(0, world.nats_url, {TOKEN: world.creds("client")}) as port:
        target = GatewayTarget(url=f"http://127.0.0.1:{port}", token=TOKEN)
        totals = await put_on(target, Closed(requests=9, concurrency=9), ids=9, timeout_s=0.5, expected=BALANCES)
        assert totals.sent == 9 == totals.done
        # The gateway may be the first to give a request up, and has its own words for that.
        late = sum(count for kind, count in totals.errors.items() if kind == "timeout" or kind.startswith("HTTP 504"))
        assert (late, totals.replies) == (2, 3)
        known = {kind: count for kind, count in EVERY_KIND.items() if kind != "timeout"}
        assert {kind: totals.errors[kind] for kind in known} == known
        bad_token = target.model_copy(update={"token": "nhg_no"})
        refused_all = await put_on(bad_token, Closed(requests=3, concurrency=1))
        (kind,) = refused_all.errors
        assert (kind.split()[:2], refused_all.errors[kind]) == (["HTTP", "401"], 3)


async def test_nobody_there(world: World) -> None:
    totals = await put_on(over_nats(world), Closed(requests=20, concurrency=5))
    assert (totals.errors, totals.replies) == ({"no responders": 20}, 0)
    away = GatewayTarget(url=f"http://127.0.0.1:{claim_port(0, '')}", token=TOKEN)
    with pytest.raises(BenchmarkError, match=r"no connection to http://.*; is the gateway running\?"):
        await put_on(away, Closed(requests=4, concurrency=2))
    with pytest.raises(BenchmarkError, match=r"no connection to .*; is it running\?"):
        await put_on(NatsTarget(servers=[f"nats://127.0.0.1:{claim_port(0, '')}"]), Closed(requests=1, concurrency=1))


async def test_a_stall_is_charged_to_every_request_it_kept_waiting(world: World) -> None:
    """Coordinated omission: a closed loop waits politely and sees one slow request, the open loop sees them all."""
    stalled_until = 0.0
    seen = 0

    async def stalls_once(client_id: str, msg: Msg) -> None:
        nonlocal stalled_until, seen
        now = asyncio.get_running_loop().time()
        seen += 1
        if seen == 100:
            stalled_until = now + 1.0
        await asyncio.sleep(max(0.0, stalled_until - now))
        await right(client_id, msg)

    async with responder(world, stalls_once):
        closed = await put_on(over_nats(world), Closed(requests=400, concurrency=1))
        seen = 0
        opened = await put_on(over_nats(world), Open(rate=200, duration_s=3))
    polite, honest = Latency.of(closed.histogram), Latency.of(opened.histogram)
    assert (closed.replies, opened.replies) == (400, 600)
    assert polite.p99_ms < 500 < polite.max_ms
    assert honest.p90_ms > 400, "a third of the time it was stalled"
    assert honest.p99_ms > 900


async def test_an_open_loop_keeps_its_rate_and_a_closed_one_its_concurrency(world: World) -> None:
    in_hand, most, moments = 0, 0, list[float]()

    async def slow(client_id: str, msg: Msg) -> None:
        nonlocal in_hand, most
        moments.append(asyncio.get_running_loop().time())
        in_hand += 1
        most = max(most, in_hand)
        await asyncio.sleep(0.05)
        in_hand -= 1
        await right(client_id, msg)

    async with responder(world, slow):
        totals = await put_on(over_nats(world), Closed(requests=200, concurrency=11))
        assert (totals.replies, most) == (200, 11)
        moments.clear()
        for poisson in (False, True):
            totals = await put_on(over_nats(world), Open(rate=150, duration_s=2, poisson=poisson))
            assert totals.replies == totals.sent
            assert (totals.sent == 300) if not poisson else (230 < totals.sent < 370)


async def test_clients_are_asked_for_in_turn_whatever_the_number_of_processes(world: World) -> None:
    asked: Counter[str] = Counter()

    async def count(client_id: str, msg: Msg) -> None:
        asked[client_id] += 1
        await right(client_id, msg)

    async with responder(world, count):
        for processes in (1, 3):
            asked.clear()
            await put_on(over_nats(world), Closed(requests=100, concurrency=10), ids=50, processes=processes)
            assert asked == {str(number): 2 for number in range(1, 51)}


async def test_stopped_early_it_says_what_it_has(world: World) -> None:
    async with responder(world, right):
        stop = asyncio.Event()

        def stop_after_some(now: Totals) -> None:
            if now.replies >= 20:
                stop.set()

        totals = await put_on(over_nats(world), Open(rate=100, duration_s=60), stop=stop, on_tick=stop_after_some)
    assert totals.interrupted
    assert 0 < totals.replies == totals.sent < 300


async def test_tls_or_nothing(world: World) -> None:
    target = NatsTarget(servers=[world.nats_url.replace("nats://", "tls://")], creds=world.creds("client"))
    with pytest.raises(BenchmarkError, match="offers no TLS"):
        await put_on(target, Closed(requests=1, concurrency=1), processes=1)
