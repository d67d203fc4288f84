"""Least privilege, on the real server: what is wanted works, everything else is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import pytest
from nats.aio.client import Client, RawCredentials

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import EVERYTHING
from service.contracts.customer import BUCKET
from service.contracts.stream import STREAM
from service.nats.connection import roundtrip
from service.nats.discovery import instances
from tests.support.world import World, eventually, make_world


class Watched:
    """A connection, and the violations that the server reports to it."""

    def __init__(self, client: Client, violations: list[str]) -> None:
        self.client = client
        self.violations = violations

    async def refused(self, subject: str) -> bool:
        await roundtrip(self.client)
        return any(subject.lower() in violation.lower() for violation in self.violations)

    async def may_publish(self, subject: str) -> bool:
        await self.client.publish(subject, b"forged")
        return not await self.refused(subject)

    async def may_subscribe(self, subject: str, queue: str = "") -> bool:
        subscription = await self.client.subscribe(subject, queue=queue)
        refused = await self.refused(subject)
        if not refused:
            await subscription.unsubscribe()
        return not refused


@asynccontextmanager
async def watched(world: World, user: str) -> AsyncIterator[Watched]:
    violations: list[str] = []

    async def note(error: Exception) -> None:
        violations.append(str(error))

    client = Client()
    await client.connect(world.nats_url, user_credentials=RawCredentials(world.creds(user)), error_cb=note)
    try:
        yield Watched(client, violations)
    finally:
        await client.close()


@pytest.mark.parametrize("subject", ["customer.balance", "$SRV.PING", "$SRV.STATS.customer"])
async def test_the_client_may_request(common: World, subject: str) -> None:
    async with watched(common, "client") as client:
        assert await client.may_publish(subject)


@pytest.mark.parametrize(
    "subject",
    [
        "customer.balance.678",
        "customer.other",
        "_INBOX_service.abc.1",
        "_INBOX.somebody",
        "$KV.config.seed",
        f"$JS.API.STREAM.INFO.{STREAM}",
        f"$JS.API.STREAM.MSG.GET.{STREAM}",
        f"$JS.API.DIRECT.GET.{STREAM}",
        f"$JS.API.STREAM.PURGE.{STREAM}",
        f"$JS.API.CONSUMER.CREATE.{STREAM}",
        f"$JS.API.STREAM.MSG.GET.KV_{BUCKET}",
        "$SYS.REQ.CLAIMS.UPDATE",
    ],
)
async def test_the_client_may_publish_nothing_else(common: World, subject: str) -> None:
    before = await common.last_sequence()
    async with watched(common, "client") as client:
        assert not await client.may_publish(subject)
    assert await common.last_sequence() == before


@pytest.mark.parametrize(
    "subject", ["customer.balance", "customer.balance.>", ">", "_INBOX_service.>", "$SRV.>", "$KV.config.>"]
)
async def test_the_client_may_hear_nothing_but_its_inbox(common: World, subject: str) -> None:
    async with watched(common, "client") as client:
        assert not await client.may_subscribe(subject)
        assert await client.may_subscribe("_INBOX.own.*")


async def test_the_client_cannot_read_the_services_acknowledgements(world: World) -> None:
    async with world.task(), watched(world, "client") as eavesdropper, world.client() as client:
        heard: list[bytes] = []

        async def hear(message: object) -> None:
            heard.append(b"")

        await eavesdropper.client.subscribe("_INBOX_service.>", cb=hear)
        await client.request("customer.balance", b'{"client_id":"1"}', timeout=3)

        async def stored() -> bool:
            return await world.last_sequence() == 1

        await eventually(stored)
        assert heard == []


@pytest.mark.parametrize(
    "subject",
    [
        "customer.balance.678",
        "_INBOX.abc.def",
        "$KV.config.seed",
        "$KV.config.seed-lease",
        f"$JS.API.STREAM.INFO.{STREAM}",
        f"$JS.API.STREAM.INFO.KV_{BUCKET}",
        f"$JS.API.DIRECT.GET.KV_{BUCKET}.$KV.{BUCKET}.seed",
        # For the figures about the other roles:
        f"$JS.API.CONSUMER.INFO.{STREAM}.archive",
        f"$JS.API.CONSUMER.INFO.{STREAM}.queue",
        f"$JS.API.STREAM.MSG.GET.{STREAM}",
        "$JS.API.STREAM.INFO.queue-dead",
    ],
)
async def test_the_service_may_publish_what_it_needs(common: World, subject: str) -> None:
    async with watched(common, "service") as service:
        assert await service.may_publish(subject)


@pytest.mark.parametrize(
    "subject",
    [
        "customer.balance",
        "customer.balance.a.b",
        "orders.new",
        "$KV.config.other",
        f"$JS.API.STREAM.DELETE.{STREAM}",
        f"$JS.API.STREAM.PURGE.{STREAM}",
        f"$JS.API.STREAM.UPDATE.{STREAM}",
        f"$JS.API.STREAM.MSG.DELETE.{STREAM}",
        f"$JS.API.DIRECT.GET.{STREAM}",
        f"$JS.API.CONSUMER.INFO.{STREAM}.other",
        f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.queue",
        f"$JS.ACK.{STREAM}.queue.1.1.1.1.0",
        "$JS.API.STREAM.MSG.GET.queue-dead",
        "$JS.API.STREAM.INFO.archive-dead",
        "$JS.API.STREAM.CREATE.mine",
        "$SYS.REQ.CLAIMS.UPDATE",
    ],
)
async def test_the_service_may_publish_no_more(common: World, subject: str) -> None:
    async with watched(common, "service") as service:
        assert not await service.may_publish(subject)


async def test_the_service_listens_in_its_queue_group_alone(common: World) -> None:
    async with watched(common, "service") as service:
        assert await service.may_subscribe("customer.balance", queue="q")
        assert await service.may_subscribe("_INBOX_service.a.b")
        assert await service.may_subscribe("$SRV.PING.customer.anyid")
    async with watched(common, "service") as service:
        assert not await service.may_subscribe("customer.balance", queue="")
    async with watched(common, "service") as service:
        assert not await service.may_subscribe("customer.balance", queue="other")
    for subject in ("_INBOX.>", "customer.balance.>", "$KV.config.>", ">"):
        async with watched(common, "service") as service:
            assert not await service.may_subscribe(subject)


@pytest.mark.parametrize("subject", ["customer.balance", "$SRV.PING", "$SRV.STATS.customer"])
async def test_the_gateway_may_request(common: World, subject: str) -> None:
    async with watched(common, "gateway") as gateway:
        assert await gateway.may_publish(subject)
        assert await gateway.may_subscribe("_INBOX.own.*")


@pytest.mark.parametrize(
    "subject",
    ["customer.balance", "customer.balance.>", "customer.balance.678", ">", "_INBOX_service.>", "$KV.config.>"],
)
async def test_the_gateway_may_hear_nothing_but_its_inbox(common: World, subject: str) -> None:
    async with watched(common, "gateway") as gateway:
        assert not await gateway.may_subscribe(subject)


@pytest.mark.parametrize(
    "subject",
    ["customer.balance.678", "customer.other", "_INBOX.somebody", "$KV.config.seed", f"$JS.API.STREAM.INFO.{STREAM}"],
)
async def test_the_gateway_may_publish_nothing_else(common: World, subject: str) -> None:
    async with watched(common, "gateway") as gateway:
        assert not await gateway.may_publish(subject)


async def test_the_viewer_reads_the_stream_the_bucket_and_who_is_there(world: World) -> None:
    """What `nats stream view`, `nats kv get` and `nats sub` do."""
    async with world.task(), watched(world, "viewer") as viewer, world.client() as client:
        events = await viewer.client.subscribe("customer.balance.*")
        await roundtrip(viewer.client)
        await client.request("customer.balance", b'{"client_id":"1"}', timeout=3)
        assert (await events.next_msg(timeout=10)).subject == "customer.balance.1"
        jetstream = viewer.client.jetstream(timeout=3)

        async def stored() -> bool:
            return (await jetstream.stream_info(STREAM)).state.messages == 1

        await eventually(stored)
        pager = await jetstream.pull_subscribe("", durable="stream_pager_1", stream=STREAM)
        (event,) = await pager.fetch(1, timeout=3)
        await event.ack_sync()
        assert event.subject == "customer.balance.1"
        assert await jetstream.delete_consumer(STREAM, "stream_pager_1")
        assert (await (await jetstream.key_value(BUCKET)).get("seed")).value == b"done"
        assert len(await instances(viewer.client, "customer", "PING")) == 1
        assert viewer.violations == []


@pytest.mark.parametrize(
    "subject",
    [
        "customer.balance",
        "customer.balance.678",
        "$KV.config.seed",
        f"$JS.API.STREAM.PURGE.{STREAM}",
        f"$JS.API.STREAM.UPDATE.{STREAM}",
        f"$JS.API.STREAM.DELETE.{STREAM}",
        f"$JS.API.STREAM.MSG.DELETE.{STREAM}",
        f"$JS.API.STREAM.PURGE.KV_{BUCKET}",
        *(
            f"$JS.API.CONSUMER.{verb}.{consumer.stream}.{consumer.name}"
            for consumer in EVERYTHING.consumers
            for verb in ("CREATE", "DELETE", "MSG.NEXT")
        ),
        *(f"$JS.ACK.{consumer.stream}.{consumer.name}.1.1.1.1.0" for consumer in EVERYTHING.consumers),
    ],
)
async def test_the_viewer_changes_nothing(common: World, subject: str) -> None:
    async with watched(common, "viewer") as viewer:
        assert not await viewer.may_publish(subject)


async def test_users_of_another_account_are_not_heard(world: World) -> None:
    """Accounts are islands: a request in one is nobody's in another."""
    async with world.task(), make_world(world.servers, world.folder) as other, other.client() as stranger:
        with pytest.raises(nats.errors.NoRespondersError):
            await stranger.request("customer.balance", b'{"client_id":"1"}', timeout=2)


def test_every_users_credentials_fit_into_the_line_that_connects() -> None:
    """nats-server ends a connection whose CONNECT, JWT and all, is longer than `max_control_line`: 4,096 bytes."""
    account = Key.account()
    for user in EVERYTHING.users:
        assert len(claims.mint_creds(user, account, account=account.public)) < 3_500, user.name
