"""Room for requests, given to the real nats-server: never more than was said, renewed, and gone with the drain."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import nats.errors
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client

from control_plane.self_hosted import provider as self_hosted
from service.nats.client import NatsClient
from service.nats.connection import roundtrip
from service.nats.parser import Callback, Read
from service.requests import credit as credit_module
from service.requests import grants
from service.requests.credit import OVERDRAFT, Credit
from service.requests.grants import Window
from tests.support.nats.wire import pub, wire
from tests.support.world import World, eventually


class Held:
    """Takes requests and keeps them in flight until it is told to answer."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        """Their reply subjects."""
        self.credit: Credit

    def take(self, read: Read) -> None:
        self.credit.enter(len(read.replies))
        self.messages += read.replies

    def answer(self, count: int) -> None:
        answered, self.messages = self.messages[:count], self.messages[count:]
        for reply in answered:
            self.credit._nc.post(reply, b"ok")
        self.credit.leave(count)


@asynccontextmanager
async def crediting(world: World, max_in_flight: int, *subjects: str) -> AsyncIterator[tuple[NatsClient, Credit, Held]]:
    held = Held()
    async with world.client("administrator") as nc:
        assert isinstance(nc, NatsClient)
        held.credit = Credit(nc, max_in_flight)
        for subject in subjects or ("customer.balance",):
            held.credit.add(subject, "q", held.take)
        held.credit.open()
        await roundtrip(nc)
        yield nc, held.credit, held


async def ask(client: Client, subject: str = "customer.balance", timeout_s: float = 5.0) -> str:
    try:
        return (await client.request(subject, b"x", timeout=timeout_s)).data.decode()
    except nats.errors.NoRespondersError:
        return "no responders"


@pytest.mark.parametrize("max_in_flight", [1, 2, 3, 4, 10, 100])
async def test_what_there_is_no_room_for_meets_no_responder_at_once(world: World, max_in_flight: int) -> None:
    async with crediting(world, max_in_flight) as (nc, credit, held), world.client() as client:
        room = max_in_flight // max(1, max_in_flight // 4) * max(1, max_in_flight // 4)
        for _ in range(3):
            asking = [asyncio.create_task(ask(client)) for _ in range(room)]
            await eventually(lambda: len(held.messages) == room)
            assert await ask(client) == "no responders"
            assert not any(task.done() for task in asking), "it did not wait for room"
            assert credit.in_flight == room <= max_in_flight
            held.answer(room)
            assert await asyncio.gather(*asking) == ["ok"] * room
            await roundtrip(nc)
        assert credit.without_s > 0


async def test_a_full_task_takes_again_when_a_quarter_of_its_room_is_free(world: World) -> None:
    async with crediting(world, 8) as (nc, credit, held), world.client() as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(8)]
        await eventually(lambda: len(held.messages) == 8)
        await use_up_what_is_granted(credit, client)
        held.answer(1)
        await roundtrip(nc)
        before = credit.turned_away
        assert [await ask(client) for _ in range(8)] == ["no responders"] * 8
        assert credit.turned_away == before + 8
        held.answer(1)
        await roundtrip(nc)
        asking += [asyncio.create_task(ask(client)) for _ in range(2)]
        await eventually(lambda: len(held.messages) == 8)
        held.answer(8)
        assert await asyncio.gather(*asking) == ["ok"] * 10
        assert credit.in_flight == 0


async def use_up_what_is_granted(credit: Credit, client: Client) -> None:
    """Of a full task: the overdraft has brought some of what there was room for, and as much is still granted."""
    while credit._windows[0].outstanding:
        assert await ask(client) == "no responders"


async def test_a_request_turned_away_gets_the_servers_own_reply(world: World) -> None:
    async with crediting(world, 1) as (nc, credit, held), wire(world.nats_url, world.creds("client")) as raw:
        raw.send(b"SUB _INBOX.own 1\r\n")
        raw.send(pub(b"customer.balance", b"x", b"_INBOX.own"))
        await eventually(lambda: len(held.messages) == 1)
        for reply in (b"", b"customer.balance.1", b"_INBOX_service.x"):
            raw.send(pub(b"customer.balance", b"x", reply))  # to none of these
        raw.send(pub(b"customer.balance", b"x", b"_INBOX.own"))
        await eventually(lambda: credit.turned_away == 4)
        await roundtrip(nc)
        raw.send(pub(b"customer.get", b"x", b"_INBOX.own"))
        await raw.roundtrip()
        ours, theirs = raw.messages.get_nowait(), raw.messages.get_nowait()
        assert ours == (b"_INBOX.own", b"NATS/1.0 503\r\n\r\n", b"")
        assert theirs[1].splitlines()[0] == b"NATS/1.0 503", "newer servers name the subject behind it"
        assert raw.messages.empty()


async def test_a_drain_makes_no_overdraft_again(world: World) -> None:
    """What is still on its way is turned away, and counts for no time without credit."""
    async with crediting(world, 8) as (nc, credit, held), world.client() as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(8)]
        await eventually(lambda: len(held.messages) == 8)
        await credit.close()
        sid = next(iter(credit._windows[0].overdraft)).encode()
        message = b"MSG customer.balance %b _INBOX.x 1\r\nx\r\n" % sid
        await nc._ps.parse(message * (OVERDRAFT + 1))
        await roundtrip(nc)
        assert credit.turned_away == OVERDRAFT + 1
        assert await grants_at_the_server(world) == 0
        assert credit._empty_since_s is None
        held.answer(8)
        assert await asyncio.gather(*asking) == ["ok"] * 8


async def test_a_task_that_has_turned_away_its_allowance_lets_the_server_say_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And there is interest at every moment until then: an overdraft that is half used up is made again first."""
    monkeypatch.setattr(credit_module, "OVERDRAFT", 64)
    async with crediting(world, 8) as (_, credit, held), world.client() as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(8)]
        await eventually(lambda: len(held.messages) == 8)
        for _ in range(100):
            assert await ask(client) == "no responders"
        assert credit.turned_away == 64
        assert await grants_at_the_server(world) == 0
        held.answer(8)
        assert await asyncio.gather(*asking) == ["ok"] * 8
        await eventually(
            lambda: server_knows(world, 8 + 1), what="the grants, and an overdraft of what is allowed again"
        )
        for _ in range(3):
            asking = [asyncio.create_task(ask(client)) for _ in range(8)]
            await eventually(lambda: len(held.messages) == 8)
            held.answer(8)
            assert await asyncio.gather(*asking) == ["ok"] * 8


async def test_a_subject_is_given_nothing_while_others_fill_the_room(world: World) -> None:
    async with (
        crediting(world, 4, "customer.a", "customer.b") as (nc, _, held),
        world.client("administrator") as client,
    ):
        asking = [asyncio.create_task(ask(client, "customer.a")) for _ in range(4)]
        await eventually(lambda: len(held.messages) == 4)
        # The other was idle, and its grants stand.
        assert [await ask(client, "customer.b") for _ in range(8)] == ["no responders"] * 8
        held.answer(4)
        await roundtrip(nc)
        asking += [asyncio.create_task(ask(client, f"customer.{name}")) for name in "ab"]
        await eventually(lambda: len(held.messages) == 2)
        held.answer(2)
        assert await asyncio.gather(*asking) == ["ok"] * 6


async def test_a_new_connection_has_the_room_there_is_and_no_more(world: World) -> None:
    async with crediting(world, 8) as (nc, credit, held), world.client() as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(5)]
        await eventually(lambda: len(held.messages) == 5)
        for kick in range(1, 4):
            await nc.force_reconnect()
            await eventually(lambda kick=kick: nc.stats["reconnects"] == kick and nc.is_connected)
            await eventually(lambda: server_knows(world, 3 + 1), what="three grants, and an overdraft")
        asking += [asyncio.create_task(ask(client)) for _ in range(3)]
        await eventually(lambda: len(held.messages) == 8)
        assert await ask(client) == "no responders"
        held.answer(8)
        assert await asyncio.gather(*asking) == ["ok"] * 8
        assert credit.in_flight == 0
        await eventually(lambda: server_knows(world, 8 + 1), what="a grant for each, and an overdraft")


async def test_nothing_is_granted_on_a_lost_connection(world: World) -> None:
    async with crediting(world, 4) as (nc, credit, held), world.client() as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(4)]
        await eventually(lambda: len(held.messages) == 4)
        await nc.force_reconnect()
        for _ in range(4):
            held.messages.pop()
            credit.leave(1)
        await eventually(lambda: nc.is_connected)
        await eventually(lambda: server_knows(world, 4 + 1), what="four grants, and an overdraft")
        for task in asking:
            task.cancel()


async def test_a_full_task_is_known_as_full_on_a_new_connection(world: World) -> None:
    async with crediting(world, 4) as (nc, credit, held), world.client() as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(4)]
        await eventually(lambda: len(held.messages) == 4)
        await nc.force_reconnect()
        await eventually(lambda: nc.stats["reconnects"] == 1 and nc.is_connected)
        await roundtrip(nc)
        before_s = credit.without_s
        await eventually(lambda: credit.without_s > before_s)
        held.answer(4)
        assert await asyncio.gather(*asking) == ["ok"] * 4
        given_s = credit.without_s
        assert await asyncio.to_thread(lambda: credit.without_s) == given_s


def burst(world: World, requests: int) -> None:
    """The server deals with requests while this event loop stands still, as that of a task without CPU does."""

    async def send() -> None:
        async with world.client() as client:
            for _ in range(requests):
                await client.publish("customer.balance", b"x", reply=client.new_inbox())
            await roundtrip(client)

    sending = threading.Thread(target=lambda: asyncio.run(send()))
    sending.start()
    sending.join()


@pytest.mark.parametrize(("requests", "was_without"), [(100, True), (40, False)])
async def test_credit_that_was_used_up_while_the_task_slept_counts(
    world: World, requests: int, was_without: bool
) -> None:
    async with crediting(world, 64) as (_, credit, held):
        taken = 0

        def take_and_answer(read: Read) -> None:
            nonlocal taken
            taken += len(read.replies)
            held.take(read)
            held.answer(len(read.replies))

        credit._windows[0].take = take_and_answer
        burst(world, requests)
        await eventually(lambda: taken == min(requests, 64))
        burst(world, 20)
        await eventually(lambda: taken == min(requests, 64) + 20)
        assert (credit.without_s > 0) == was_without
        assert credit.without_s <= 0.1


async def test_a_closed_credit_takes_nothing_on_no_connection(world: World) -> None:
    async with crediting(world, 8) as (nc, credit, held), world.client() as client:
        asking = asyncio.create_task(ask(client))
        await eventually(lambda: len(held.messages) == 1)
        await credit.close()
        assert await ask(client) == "no responders"
        await nc.force_reconnect()
        await eventually(lambda: nc.stats["reconnects"] == 1 and nc.is_connected)
        await roundtrip(nc)
        assert await ask(client) == "no responders"
        held.answer(1)
        assert await asking == "ok"
        assert await ask(client) == "no responders"
        await asyncio.wait_for(credit.idle(), 1)


async def test_a_drain_while_the_server_is_away_takes_nothing_later(world: World) -> None:
    async with crediting(world, 8) as (nc, credit, _), world.client() as client:
        await nc.force_reconnect()
        await credit.close()
        await eventually(lambda: nc.stats["reconnects"] == 1 and nc.is_connected)
        await roundtrip(nc)
        assert await ask(client) == "no responders"


async def test_no_grant_is_left_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the client and in the server, after hundreds of them."""
    monkeypatch.setattr("service.nats.client.SPENT_S", 0.0)
    async with crediting(world, 8) as (nc, credit, held), world.client() as client:
        tasks_before = len(asyncio.all_tasks())
        for _ in range(150):
            asking = [asyncio.create_task(ask(client)) for _ in range(6)]
            await eventually(lambda: len(held.messages) == 6)
            held.answer(6)
            assert await asyncio.gather(*asking) == ["ok"] * 6
        await roundtrip(nc)
        assert len(nc._grants) <= 16
        assert len(asyncio.all_tasks()) <= tasks_before + 1
        assert await grants_at_the_server(world) <= 8 + 1
        assert credit.in_flight == 0


async def test_more_than_a_grant_is_taken_too(world: World) -> None:
    """A busy server delivers some between SUB and UNSUB."""
    async with crediting(world, 4) as (nc, credit, held):
        sid = next(iter(nc._grants)).encode()
        for _ in range(3):
            await nc._ps.parse(b"MSG customer.balance %b _INBOX.x 0\r\n\r\n" % sid)
        assert credit.in_flight == len(held.messages) == 3
        held.answer(3)
        assert credit.in_flight == 0


async def grants_at_the_server(world: World) -> int:
    """Subscriptions of the queue group, as the server counts them."""
    async with self_hosted.connected(world.nats_url, world.servers.system_creds) as system:
        query = orjson.dumps({"subscriptions_detail": True, "subscriptions": True})
        reply = await system.request(f"$SYS.REQ.ACCOUNT.{world.account.public}.CONNZ", query, timeout=5)
    connections = orjson.loads(reply.data)["data"]["connections"] or []
    details = [sub for each in connections for sub in each.get("subscriptions_list_detail") or []]
    return sum(sub.get("qgroup") == "q" for sub in details)


async def server_knows(world: World, grants: int) -> bool:
    return await grants_at_the_server(world) == grants


def messages(*sids: str) -> Read:
    """One message of each subscription."""
    count = len(sids)
    return Read(sids, ["_INBOX.x"] * count, [""] * count, ["x"] * count, ["a"] * count)


class Server:
    """Stands in for the connection, to see every grant."""

    def __init__(self) -> None:
        self.is_connected = True
        self.on_lost: list[Callable[[], None]] = []
        self.on_reconnected: list[Callable[[], None]] = []
        self.granted = 0
        self.grants: list[list[Any]] = []
        """What is left of each, and who takes its messages."""
        self.end_grants = self._end_grants

    async def _end_grants(self) -> None: ...

    def grant(self, _subject: str, _queue: str, limit: int, callback: Callback) -> str:
        if limit == OVERDRAFT:
            return "overdraft"
        self.granted += limit
        self.grants.append([limit, callback])
        return str(len(self.grants) - 1)

    def spend(self, sid: str) -> None:
        assert self.grants[int(sid)][0] == 0

    def deliver(self, count: int = 1) -> None:
        """The oldest grants' messages, each by itself."""
        for _ in range(count):
            sid, grant = next((sid, grant) for sid, grant in enumerate(self.grants) if grant[0])
            grant[0] -= 1
            grant[1](messages(str(sid)))


def stood_in(max_in_flight: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Server, Credit, Callable[[float], None]]:
    """With a clock that moves when it is told to, by so many seconds."""
    now_s = 100.0
    for module in (credit_module, grants):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now_s))
    server = Server()
    credit = Credit(server, max_in_flight)  # type: ignore[arg-type]

    credit.add("a", "q", lambda read: credit.enter(len(read.sids)))

    def later(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    return server, credit, later


async def test_the_time_in_which_a_task_is_full_is_counted_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    server, credit, later = stood_in(4, monkeypatch)
    credit.open()
    for _ in range(4):
        later(1)
        assert credit.without_s == 0
        server.deliver()
    later(3)
    assert credit.without_s == 3
    assert credit.recent_share_without() == pytest.approx(3 / 7)
    credit.leave(2)
    later(1)
    assert credit.without_s == 3, "a quarter of the room is free"
    server.deliver(2)
    later(2)
    assert credit.without_s == 5
    server.is_connected = False
    credit._forget()
    later(6)
    assert credit.without_s == 5, "without a connection there is nothing to be full for"
    server.is_connected = True
    credit._renew()
    later(1)
    assert credit.without_s == 6, "a new connection to a full task"
    assert credit.recent_share_without() == pytest.approx(6 / 17), "since the start"
    later(4)
    assert credit.recent_share_without() == pytest.approx(10 / 21)
    later(7)
    assert credit.recent_share_without() == pytest.approx(11 / 11), "since it was last marked"
    for _ in range(4):
        credit.leave(1)
    later(11)
    assert (credit.without_s, credit.in_flight) == (17, 0)
    assert credit.recent_share_without() == 0
    for _ in range(4):
        server.deliver()
    await credit.close()
    later(5)
    assert credit.without_s == 17, "a drain wants nothing more"


async def test_a_task_whose_room_shrinks_is_not_full_while_it_has_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    server, credit, later = stood_in(2048, monkeypatch)
    credit.open()
    for _ in range(9100):  # fast enough for all the room that there may be
        server.deliver()
        later(1 / 9000)
        credit.leave(1)
    server.deliver(1100)
    later(3)
    while credit.in_flight:
        credit.leave(1)
    before_s = credit.without_s
    later(60)
    assert credit.without_s == before_s


async def test_credit_that_may_have_been_used_up_counts_when_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """All the time since the last grants, at most a CPU quota's period, less what was seen to be without credit."""
    now_s = 100.0
    for module in (credit_module, grants):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now_s))

    window, spent, made = Window("a", "q", lambda _: None), list[str](), itertools.count()

    def add(limit: int, empty_s: float) -> str:
        sid = str(next(made))
        window.add([sid], limit, empty_s)
        return sid

    def use(*sids: str) -> float:
        return window.use(sids, spent.append)

    first = add(32, 0.0)
    assert use(first) == 0, "there was none before"
    now_s += 0.05
    second = add(32, 0.0)
    assert use(*[first] * 31) == 0
    assert [use(second), use(second)] == pytest.approx([0.05, 0])
    now_s += 5
    third, fourth = add(16, 0.04), add(16, 0.0)
    assert use(third) == 0, "the second had some left"
    assert use(*[second] * 30) == 0
    assert use(*[third] * 15) == 0, "it was touched before"
    assert use(fourth) == 0, "made in the same moment"
    now_s += 5
    fifth, few = add(16, 0.04), add(15, 0.0)
    assert use(*[fourth] * 15) == 0
    assert use(fifth) == pytest.approx(0.06)
    assert use(*[fifth] * 15) == 0
    assert use(few) == 0, "too few to tell"
    now_s += 5
    sixth = add(16, 0.0)
    assert use(*[few] * 13, sixth, few) == 0, "the one before had one left when the first of this one came"
    now_s += 5
    seventh = add(16, 0.0)
    assert use(*[sixth] * 15, seventh) == pytest.approx(0.1), "it had none"
    assert use(few, sixth, "another's") == 0, "more than was granted counts for nothing"
    assert (window.outstanding, spent) == (15, [first, second, third, fourth, fifth, few, sixth])


async def test_it_is_idle_when_nothing_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    _, credit, _ = stood_in(4, monkeypatch)
    for _ in range(2):
        await asyncio.wait_for(credit.idle(), 1)
        credit.enter(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(credit.idle(), 0.01)
        waiting = asyncio.create_task(credit.idle())
        credit.enter(1)
        credit.leave(1)
        await asyncio.sleep(0)
        assert not waiting.done()
        credit.leave(1)
        await asyncio.wait_for(waiting, 1)


async def test_a_message_that_cannot_be_decoded_uses_up_the_last_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    server, credit, _ = stood_in(1, monkeypatch)
    credit.open()
    credit._windows[0].take = lambda _: None
    for granted in (2, 3):
        server.deliver()
        assert (server.granted, credit.in_flight) == (granted, 0)


async def test_nothing_is_granted_before_it_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    server, credit, _ = stood_in(4, monkeypatch)
    credit._renew()
    assert server.granted == 0
    credit.open()
    assert server.granted == 4


async def test_a_server_that_does_not_confirm_the_end_keeps_no_drain_back(monkeypatch: pytest.MonkeyPatch) -> None:
    server, credit, _ = stood_in(4, monkeypatch)
    credit.open()

    async def end_grants() -> None:
        raise nats.errors.TimeoutError

    server.end_grants = end_grants
    await credit.close()
    async with asyncio.timeout(10):
        await credit.idle()


@pytest.mark.parametrize(
    ("max_in_flight", "answered", "passed_s", "room"),
    [
        (2048, 5_000, 1.0, 1250),
        (2048, 5_000, 0.9, 1024),  # too short a time to tell
        (2048, 4_000, 1.0, 1024),
        (2048, 10_000, 2.0, 1250),
        (2048, 20_000, 1.0, 2048),
        (1024, 20_000, 1.0, 1024),
        (200, 20_000, 1.0, 200),
        (1_000_000, 20_000, 1.0, 500_000),
    ],
)
async def test_there_is_room_for_what_is_answered_in_a_quarter_of_a_second(
    max_in_flight: int, answered: int, passed_s: float, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, credit, later = stood_in(max_in_flight, monkeypatch)
    credit.open()
    least = min(max_in_flight, max(1024, max_in_flight // 2))
    piece = least // 16
    assert server.granted == least // piece * piece, "before anything is known of it"
    serve(server, credit, answered - 1)
    later(passed_s)
    serve(server, credit, 1)
    assert server.granted - answered in range(room - piece + 1, room + 1)


async def test_a_task_that_becomes_slow_has_less_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server, credit, later = stood_in(2048, monkeypatch)
    credit.open()
    outstanding = []
    for answered in (20_000, 6_000, 2_000, 1, 6_000):
        serve(server, credit, answered - 1)
        later(1)
        serve(server, credit, 1)
        outstanding.append(credit._windows[0].outstanding)
    # Room for 2048, 1500, 1024, 1024, 1500, in pieces of 64; what was granted is not taken back.
    assert outstanding == [2016, 2032, 1440, 1439, 1455]


def serve(server: Server, credit: Credit, requests: int) -> None:
    for _ in range(requests):
        server.deliver()
        credit.leave(1)


@settings(deadline=None)
@given(st.integers(1, 40), st.lists(st.sampled_from(["deliver", "answer", "lose"]), max_size=300))
def test_in_flight_and_outstanding_never_pass_the_bound(max_in_flight: int, steps: list[str]) -> None:
    async def run() -> None:
        server = Server()
        credit = Credit(server, max_in_flight)  # type: ignore[arg-type]
        delivered = answered = 0

        credit.add("a", "q", lambda read: credit.enter(len(read.sids)))
        credit.open()
        for step in steps:
            if step == "deliver" and delivered < server.granted:
                delivered += 1
                server.deliver()
            elif step == "answer" and answered < delivered:
                answered += 1
                credit.leave(1)
            elif step == "lose":
                server.is_connected = False
                server.granted = delivered  # what was outstanding is void
                for grant in server.grants:
                    grant[0] = 0
                credit._forget()
                server.is_connected = True
                credit._renew()
            assert server.granted - answered <= max_in_flight
            assert server.granted > delivered or delivered - answered > 0, "with nothing in flight there is credit"
            assert credit.in_flight == delivered - answered

    asyncio.run(run())
