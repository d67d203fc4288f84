"""The client outlives what it cannot decode, and says when it does not live any more."""

from __future__ import annotations

import asyncio
from functools import partial

import nats.errors
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.aio.msg import Msg

from service.nats.client import NatsClient, header_block
from service.nats.connection import roundtrip
from service.nats.link.reconnect import NoTlsError
from tests.support.network import network
from tests.support.world import World, eventually

word = st.binary(min_size=1, max_size=40).map(lambda raw: raw.translate(None, b" \t\r\n")).filter(bool)
header = st.binary(max_size=60) | st.binary(max_size=60).map(b"NATS/1.0".__add__)


async def client_with_subscription() -> NatsClient:
    client = NatsClient(lambda _: None, lambda: None)
    client._flush_queue = asyncio.Queue()

    async def ignore(_: Msg) -> None:
        pass

    await client.subscribe("a", cb=ignore)
    return client


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(subject=word, reply=word, headers=header, payload=st.binary(max_size=40))
async def test_whatever_came_before_the_next_message_is_received(
    subject: bytes, reply: bytes, headers: bytes, payload: bytes
) -> None:
    client = await client_with_subscription()
    sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
    await client._ps.parse(b"HMSG %b 1 %b %b\r\n%b%b\r\n" % (subject, reply, sizes, headers, payload))
    await client._ps.parse(b"MSG %b 1 %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload))
    before = client._subs[1]._received
    await client._ps.parse(b"MSG a 1  2\r\nok\r\n")
    assert before == 2
    assert client._subs[1]._received == 3
    assert client._subs[1]._pending_queue.qsize() == 3 - client.undecodable
    client._subs[1]._stop_processing()
    await asyncio.sleep(0)


async def test_an_undecodable_message_is_reported() -> None:
    told: list[Exception] = []
    client = NatsClient(told.append, lambda: None)
    client._subs = (await client_with_subscription())._subs
    await client._ps.parse(b"HMSG a 1 r 1 1\r\nN\r\nMSG a 1 \xff 0\r\n\r\n")
    assert client.undecodable == len(told) == 2
    client._subs[1]._stop_processing()


async def test_a_pong_that_nobody_waits_for_any_more_is_one() -> None:
    client = NatsClient(lambda _: None, lambda: None)
    late, waiting = (asyncio.get_running_loop().create_future() for _ in range(2))
    late.cancel()
    client._pongs = [late, waiting]
    await client._ps.parse(b"PONG\r\nPONG\r\n")
    assert waiting.result() is True


@pytest.mark.parametrize("name", ["_reading_task", "_flusher_task"])
async def test_a_loop_that_ended_reconnects_at_once(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)

        async def fail_once(*_: object) -> None:
            monkeypatch.undo()
            raise RuntimeError("as the test wants it")

        if name == "_reading_task":
            monkeypatch.setattr(client._ps, "parse", fail_once)
        else:
            monkeypatch.setattr(client._transport, "drain", fail_once)
        ended = getattr(client, name)
        client._transport.write(b"PING\r\n")  # type: ignore[union-attr]
        await client.publish("_INBOX.x", b"")
        await eventually(lambda: client.stats["reconnects"] == 1 and client.is_connected)
        assert ended.done()
        assert client.loops_ended == 1
        await roundtrip(client)


async def test_whatever_fails_while_it_reconnects_another_try_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py closes the client for good when it is not a network error."""
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)
        failures = iter([ValueError("unforeseen"), KeyError("x"), asyncio.InvalidStateError()])
        connect = client._process_connect_init

        async def fail(*_: object) -> None:
            if failure := next(failures, None):
                raise failure
            await connect()

        monkeypatch.setattr(client, "_process_connect_init", fail)
        await client.force_reconnect()
        await eventually(lambda: client.stats["reconnects"] == 1 and client.is_connected)
        await roundtrip(client)


async def test_a_reconnection_that_another_has_replaced_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`asyncio.wait_for` may forget its cancellation; then two would take each other's connection away."""
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)

        async def fail() -> None:
            raise ConnectionRefusedError

        monkeypatch.setattr(client, "_select_next_server", fail)
        async with asyncio.timeout(10):
            await client._attempt_reconnect()  # not the client's own task for it


async def test_every_part_hears_that_the_connection_is_lost_and_back(world: World) -> None:
    heard: list[str] = []
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)
        for part in ("requests", "readings"):
            client.on_lost.append(partial(heard.append, f"{part} lost"))
            client.on_reconnected.append(partial(heard.append, f"{part} back"))
        await client._process_op_err(nats.errors.StaleConnectionError())
        await eventually(lambda: len(heard) == 4, what="all parts to hear of it")
    assert heard == ["requests lost", "readings lost", "requests back", "readings back"]


async def test_a_close_is_reported_once(world: World) -> None:
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)
        closed: list[bool] = []
        client._on_closed = lambda: closed.append(client.is_closed)
        await client.close()
        await client.close()
        assert closed == [True]


async def test_a_client_that_is_closed_while_it_reconnects_ceases_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when an attempt fails at that very moment, and `asyncio.wait_for` forgets the cancellation."""
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)
        attempts = 0

        async def attempt(_: object) -> None:
            nonlocal attempts
            attempts += 1
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if attempts == 1:
                    raise ConnectionRefusedError from None
                raise

        monkeypatch.setattr(client, "_open", attempt)
        await client.force_reconnect()
        await eventually(lambda: attempts == 1)
        reconnecting = client._reconnection_task
        assert reconnecting
        async with asyncio.timeout(5):
            await client.close()
        assert reconnecting.done()
        assert client.is_closed


async def test_tls_is_asked_of_a_server_that_only_offers_it() -> None:
    client = NatsClient(lambda _: None, lambda: None)
    client._setup_server_pool(["tls://127.0.0.1:1"])
    client._current_server = client._server_pool[0]
    offered = {"tls_available": True}
    await client._process_info(offered, initial_connection=True)
    assert offered["tls_required"] is True
    with pytest.raises(NoTlsError):
        await client._process_info({}, initial_connection=True)


async def test_a_server_that_was_said_is_as_safe_as_the_one_that_said_it() -> None:
    client = NatsClient(lambda _: None, lambda: None)
    client._setup_server_pool(["tls://127.0.0.1:1"])
    client._current_server = client._server_pool[0]
    await client._process_info({"connect_urls": ["127.0.0.1:2"], "tls_available": True}, initial_connection=True)
    client._current_server = next(server for server in client._server_pool if server.discovered)
    with pytest.raises(NoTlsError):
        await client._process_info({}, initial_connection=True)


async def test_what_is_posted_arrives_as_if_it_had_been_published(world: World) -> None:
    headers = {"Nats-Msg-Id": "a.1", "traceparent": "00-1"}
    async with world.client("administrator") as client, world.client("administrator") as listener:
        assert isinstance(client, NatsClient)
        heard = await listener.subscribe("a.>")
        await roundtrip(listener)
        await client.publish("a.ü", b"payload", reply="b.c", headers=headers)
        client.post("a.ü", b"payload", reply="b.c", headers=header_block(headers))
        client.post("a.plain", b"")
        published, posted, plain = [await heard.next_msg(timeout=10) for _ in range(3)]
        assert (posted.subject, posted.data, posted.reply, posted.headers) == (
            published.subject, published.data, published.reply, published.headers,
        )  # fmt: skip
        assert (plain.data, plain.reply, plain.headers) == (b"", "", None)
        assert (client.stats["out_msgs"], client.stats["out_bytes"]) == (3, 14)


async def test_frames_are_posted_all_or_none(world: World) -> None:
    async with world.client("administrator") as client, world.client("administrator") as listener:
        assert isinstance(client, NatsClient)
        heard = await listener.subscribe("a.>")
        await roundtrip(listener)
        client.post_frames("PUB a.1 2\r\nü\r\nPUB a.2 1\r\nx\r\n", [2, 1])
        assert [(await heard.next_msg(timeout=10)).data for _ in range(2)] == ["ü".encode(), b"x"]
        assert (client.stats["out_msgs"], client.stats["out_bytes"]) == (2, 3)
        with pytest.raises(nats.errors.MaxPayloadError):
            client.post_frames("PUB a.3 1\r\nx\r\n", [1, client.max_payload + 1])
        await roundtrip(client)
        assert heard.pending_msgs == 0


async def test_one_payload_is_posted_to_each(world: World) -> None:
    async with world.client("administrator") as client, world.client("administrator") as listener:
        assert isinstance(client, NatsClient)
        heard = await listener.subscribe("a.>")
        await roundtrip(listener)
        client.post_each(["a.1", "a.2"], b"+WPI")
        client.post_each([], b"x")
        client.post_each(["a.3"], b"")
        messages = [await heard.next_msg(timeout=10) for _ in range(3)]
        assert [(msg.subject, msg.data) for msg in messages] == [("a.1", b"+WPI"), ("a.2", b"+WPI"), ("a.3", b"")]
        assert (client.stats["out_msgs"], client.stats["out_bytes"]) == (3, 8)
        with pytest.raises(nats.errors.MaxPayloadError):
            client.post_each(["a"], bytes(client.max_payload + 1))


async def test_what_one_turn_posts_leaves_in_one_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.client("administrator") as client:
        assert isinstance(client, NatsClient)
        writes: list[int] = []
        write = client._transport.writelines  # type: ignore[union-attr]

        def note(frames: list[bytes]) -> None:
            writes.append(len(frames))
            write(frames)

        monkeypatch.setattr(client._transport, "writelines", note)
        for _ in range(50):
            client.post("a.b", b"payload")
        await eventually(lambda: writes == [50])
        await roundtrip(client)
        assert writes[0] == 50


async def test_a_lone_frame_does_not_wait_for_the_turns_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of a turn: many lone ones must not be as many writes."""
    async with world.client("administrator") as client:
        assert isinstance(client, NatsClient)
        writes: list[list[bytes]] = []
        monkeypatch.setattr(client._transport, "writelines", writes.append)
        lone, two = "PUB a.b 1\r\nx\r\n", "PUB a.c 1\r\ny\r\n" * 2
        client.post_frames(lone, [1])
        assert writes == [[lone.encode()]]
        client.post_frames(lone, [1])
        client.post_frames(two, [1, 1])
        assert len(writes) == 1
        await eventually(lambda: len(writes) == 2)
        assert writes[1] == [lone.encode(), two.encode()]
        client.post_frames(two, [1, 1])
        client.post_frames(lone, [1])
        assert len(writes) == 2, "it must not overtake what waits"
        await eventually(lambda: writes[2:] == [[two.encode(), lone.encode()]])


async def test_what_a_slow_server_does_not_take_waits_here_in_order(world: World) -> None:
    """So it counts for the bound of nats-py's buffer, and not only in a transport's, which has none."""
    payload = bytes(100_000)
    async with network(world.nats_url) as (line, url), world.client("administrator") as listener:
        heard = await listener.subscribe("a.>")
        await roundtrip(listener)
        async with world.at(url).client("administrator") as client:
            assert isinstance(client, NatsClient)
            async with line.stalled():
                posted = 0
                while client.pending_data_size <= client._max_pending_size:
                    client.post(f"a.{posted}", payload)
                    posted += 1
                    await asyncio.sleep(0)
                with pytest.raises(nats.errors.OutboundBufferLimitError):
                    client.post("a", b"")
            numbers = [int((await heard.next_msg(timeout=10)).subject.removeprefix("a.")) for _ in range(posted)]
    assert numbers == list(range(posted))


async def test_nothing_is_posted_where_nothing_can_be_published(world: World) -> None:
    async with world.client("administrator") as client:
        assert isinstance(client, NatsClient)
        with pytest.raises(nats.errors.MaxPayloadError):
            client.post("a", bytes(client.max_payload + 1))
        while client.pending_data_size <= client._max_pending_size:
            client.post("a", bytes(100_000))
        with pytest.raises(nats.errors.OutboundBufferLimitError):
            client.post("a", b"")
        await roundtrip(client)
        client.post("a", b"")
        await client.close()
        with pytest.raises(nats.errors.ConnectionClosedError):
            client.post("a", b"")
