"""ADR-32 over the real nats-server: true numbers while requests are in flight, and a drain that forgets nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import nats.errors
import orjson
import pytest
from nats.aio.client import Client
from nats.micro.service import ServiceConfig
from structlog.testing import capture_logs

from service.nats.client import NatsClient
from service.nats.connection import roundtrip
from service.requests.burst import Burst
from service.requests.errors import BadRequest
from service.requests.micro import ConcurrentService, Endpoint
from service.runtime.telemetry.tracing import NoTracing
from tests.support.nats.wire import pub, wire
from tests.support.world import World, eventually, statistics


class Held:
    """A handler that keeps its requests until it is told to let them go."""

    def __init__(self) -> None:
        self.requests: list[Burst] = []

    def __call__(self, burst: Burst, payloads: Sequence[str]) -> None:
        burst.each(self._look, payloads)
        self.requests += burst.singles()

    def _look(self, payload: str) -> None:
        if payload == "bad":
            raise BadRequest("as the test wants it")
        if payload == "broken":
            raise ZeroDivisionError("a secret cause")

    def answer_all(self) -> None:
        while self.requests:
            self.requests.pop(0).respond(["ok"])


@asynccontextmanager
async def serving(
    client: Client, held: Held, max_in_flight: int = 1000, more: tuple[Endpoint, ...] = ()
) -> AsyncIterator[ConcurrentService]:
    endpoint = Endpoint("balance", "customer.balance", held, "d", {"type": "object"}, {})
    assert isinstance(client, NatsClient)
    service = ConcurrentService(
        client,
        ServiceConfig(name="customer", version="1.2.3", description="what it does"),
        (endpoint, *more),
        max_in_flight=max_in_flight,
        tracing=NoTracing(),
    )
    await service.serve()
    await roundtrip(client)
    yield service


async def ask(client: Client, payload: bytes = b"x") -> tuple[bytes, dict[str, str]]:
    reply = await client.request("customer.balance", payload, timeout=5)
    return reply.data, reply.headers or {}


async def nobody_listens(client: Client) -> bool:
    try:
        await client.request("customer.balance", b"late", timeout=0.1)
    except nats.errors.NoRespondersError:
        return True
    except nats.errors.TimeoutError:
        return False
    return False


@pytest.mark.parametrize(("verb", "kind"), [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")])
async def test_discovery_answers_plain_by_name_and_by_id(world: World, verb: str, kind: str) -> None:
    async with world.client("service") as server, world.client() as client, serving(server, Held()):
        (plain,) = await statistics(client, 1, verb, name="")
        (by_name,) = await statistics(client, 1, verb, name="customer")
        (by_id,) = await statistics(client, 1, verb, name=f"customer.{plain['id']}")
        assert plain == by_name == by_id
        assert plain["type"] == f"io.nats.micro.v1.{kind}_response"
        assert (plain["name"], plain["version"]) == ("customer", "1.2.3")
        with pytest.raises(nats.errors.NoRespondersError):
            await client.request(f"$SRV.{verb}.customer.nobody", b"", timeout=2)


async def test_info_describes_the_endpoint(world: World) -> None:
    async with world.client("service") as server, world.client() as client, serving(server, Held()):
        (info,) = await statistics(client, 1, "INFO")
        assert info["description"] == "what it does"
        assert info["endpoints"] == [
            {
                "name": "balance",
                "subject": "customer.balance",
                "queue_group": "q",
                "metadata": {
                    "description": "d",
                    "request_schema": '{"type":"object"}',
                    "response_schema": "{}",
                },
            }
        ]


async def test_statistics_are_true_while_hundreds_are_in_flight(world: World) -> None:
    held = Held()
    async with world.client("service") as server, world.client() as client, serving(server, held) as service:
        asking = [asyncio.create_task(ask(client)) for _ in range(300)]
        await eventually(lambda: len(held.requests) == 300)
        (during,) = await statistics(client, 1)
        (endpoint,) = during["endpoints"]
        assert endpoint["num_requests"] == 300
        assert endpoint["data"] == {"in_flight": 300}
        assert (endpoint["num_errors"], endpoint["last_error"], endpoint["processing_time"]) == (0, "", 0)
        await asyncio.sleep(0.05)
        held.answer_all()
        await asyncio.gather(*asking)
        (after,) = await statistics(client, 1)
        (endpoint,) = after["endpoints"]
        assert endpoint["num_requests"] == 300
        assert 300 * 50_000_000 <= endpoint["processing_time"] < 300 * 60_000_000_000, "to the reply, in nanoseconds"
        assert endpoint["data"] == {"in_flight": 0}
        latency = service.requests["balance"].latency_seconds
        assert sum(latency.counts) == 300
        assert 300 * 0.05 <= latency.total < 300 * 60
        assert endpoint["average_processing_time"] == endpoint["processing_time"] // 300


async def test_errors_are_counted_and_the_last_one_is_reported(world: World) -> None:
    held = Held()
    async with world.client("service") as server, world.client() as client, serving(server, held) as service:
        with capture_logs() as logs:
            body, headers = await ask(client, b"bad")
        (line,) = [line for line in logs if line["event"] == "request"]
        assert (line["log_level"], line["endpoint"], line["outcome"]) == ("debug", "balance", "BAD_REQUEST")
        assert 0 < line["ms"] < 60_000
        assert sum(service.requests["balance"].latency_seconds.counts) == 0, "a refusal is no answer"
        assert headers == {"Nats-Service-Error-Code": "403", "Nats-Service-Error": "BAD_REQUEST"}
        assert orjson.loads(body) == {"error": "as the test wants it"}
        (stats,) = await statistics(client, 1)
        assert (stats["endpoints"][0]["num_errors"], stats["endpoints"][0]["last_error"]) == (1, "403:BAD_REQUEST")


async def test_the_reply_does_not_show_an_unexpected_error(world: World) -> None:
    async with world.client("service") as server, world.client() as client, serving(server, Held()):
        body, headers = await ask(client, b"broken")
        assert headers == {"Nats-Service-Error-Code": "500", "Nats-Service-Error": "INTERNAL_ERROR"}
        assert orjson.loads(body) == {"error": "internal error"}
        (stats,) = await statistics(client, 1)
        assert stats["endpoints"][0]["last_error"] == "500:INTERNAL_ERROR"


async def test_a_drain_answers_what_was_delivered_and_takes_no_more(world: World) -> None:
    held = Held()
    async with world.client("service") as server, world.client() as client, serving(server, held) as service:
        asking = [asyncio.create_task(ask(client)) for _ in range(50)]
        await eventually(lambda: len(held.requests) == 50)
        draining = asyncio.create_task(service.drain())
        await eventually(lambda: nobody_listens(client), what="the end of the subscription")
        assert not draining.done(), "50 requests are in flight"
        (stats,) = await statistics(client, 1)
        assert stats["endpoints"][0]["num_requests"] >= 50, "$SRV answers during the drain"
        held.answer_all()
        await asyncio.wait_for(draining, 5)
        assert [body for body, _ in await asyncio.gather(*asking)] == [b"ok"] * 50


async def test_a_drain_waits_for_what_was_delivered_before_the_server_heard_of_it(world: World) -> None:
    """The round trip that ends a drain starts behind the UNSUB: a PING before it would prove nothing."""
    written: list[bytes] = []
    async with world.client("service") as server, serving(server, Held()) as service:
        transport = server._transport
        assert transport
        write, writelines = transport.write, transport.writelines

        def record(payload: bytes) -> None:
            written.append(payload)
            write(payload)

        def record_lines(payload: list[bytes]) -> None:
            written.extend(payload)
            writelines(payload)

        transport.write, transport.writelines = record, record_lines  # type: ignore[method-assign]
        await service.drain()
    assert b"".join(written).index(b"UNSUB") < b"".join(written).rindex(b"PING")


@pytest.mark.parametrize(
    "inbox",
    [
        "customer.balance.1",
        "$KV.config.seed",
        "$JS.API.STREAM.PURGE.customer-balances",
        "_INBOX_service.acks.1",
        "_INBOX_service.acks.1.100.fail.1.2.$FI",
    ],
)
async def test_a_reply_subject_of_the_services_own_gets_nothing(world: World, inbox: str) -> None:
    held = Held()
    async with world.client("service") as server, world.client() as client, serving(server, held) as service:
        await client.publish("customer.balance", b"x", reply=inbox)
        await client.publish("customer.balance", b"x")
        await eventually(lambda: service.requests["balance"].finished == 2)
        assert held.requests == []
        assert service.requests["balance"].errors == 2
        assert await world.last_sequence() == 0


async def test_a_request_whose_reply_subject_is_no_text_is_dropped_and_uses_no_room_up(world: World) -> None:
    held = Held()
    async with (
        world.client("service") as server,
        world.client() as client,
        serving(server, held, max_in_flight=4) as service,
    ):
        assert isinstance(server, NatsClient)
        async with wire(world.nats_url, world.creds("client")) as raw:
            for _ in range(50):
                raw.send(pub(b"customer.balance", b"x", b"_\xff\xfe"))
                await raw.roundtrip()
                await roundtrip(server)
        assert server.undecodable == 50
        assert (service.in_flight, service.requests["balance"].received) == (0, 0)
        asking = asyncio.create_task(ask(client))
        await eventually(lambda: len(held.requests) == 1)
        held.answer_all()
        assert await asking == (b"ok", {})


async def test_an_inbox_may_be_of_any_letters(world: World) -> None:
    held = Held()
    async with world.client("service") as server, world.administrator() as admin, serving(server, held):
        answers = await admin._nc.subscribe("_INBOX.größe")
        for reply in ("_INBOX.größe", "_INBOX.ascii"):
            await admin._nc.publish("customer.balance", b"x", reply=reply)
        await eventually(lambda: len(held.requests) == 2)
        held.answer_all()
        assert (await answers.next_msg(timeout=10)).data == b"ok"


async def test_a_requesters_inbox_may_have_any_prefix_of_an_inbox(world: World) -> None:
    """`allow_responses`: the reply reaches an inbox that no permission of the service names."""
    held = Held()
    async with world.client("service") as server, world.administrator() as admin, serving(server, held):
        client = admin._nc
        answers = await client.subscribe("_PROGRAMS_OWN.inbox")
        await client.publish("customer.balance", b"x", reply="_PROGRAMS_OWN.inbox")
        await eventually(lambda: len(held.requests) == 1)
        held.answer_all()
        assert (await answers.next_msg(timeout=10)).data == b"ok"


async def test_the_endpoints_of_a_service_share_its_drain_and_keep_their_own_statistics(
    world: World,
) -> None:
    held = Held()
    name = Endpoint("name", "customer.name", held, "A client's name.", {}, {})
    async with world.client("administrator") as admin, serving(admin, held, more=(name,)) as service:
        client = admin
        asking = [
            asyncio.create_task(client.request(subject, b"x", timeout=5))
            for subject in ("customer.balance", "customer.name")
        ]
        await eventually(lambda: len(held.requests) == 2)
        (stats,) = await statistics(client, 1)
        assert {found["name"]: (found["num_requests"], found["num_errors"]) for found in stats["endpoints"]} == {
            "balance": (1, 0),
            "name": (1, 0),
        }
        draining = asyncio.create_task(service.drain())
        await eventually(lambda: nobody_listens(client), what="the end of the subscriptions")
        assert not draining.done()
        held.answer_all()
        await asyncio.wait_for(draining, 5)
        assert [reply.data for reply in await asyncio.gather(*asking)] == [b"ok", b"ok"]
