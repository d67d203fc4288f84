"""Drills on the queue sidecar: what breaks under it, and clients that do as they like.

In each: no message is lost, none is handed to two clients inside its visibility, and every deletion that was answered
holds.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import grpc
import pytest

from service.contracts import customer
from service.contracts import queue as contract
from service.contracts.stream import STREAM
from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from tests.drills.test_outages import settled
from tests.support.drills.drill import Drill
from tests.support.network import network
from tests.support.own_servers import own_cluster, own_server
from tests.support.queue.clients import Clients, Handle, delete, delete_after, delete_twice, describe, keep
from tests.support.queue.sidecar import set_ack_wait, sidecar
from tests.support.world import World

pytestmark = pytest.mark.xdist_group("drills")

HOLDS = "no message lost, none with two clients inside its visibility, answered deletions hold"
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
LATE_S = 1.5


async def store(world: World, count: int) -> None:
    """So many messages, each acknowledged."""
    async with world.administrator() as admin:
        for _ in range(0, count, 500):
            futures = [await admin.publish_async(f"{customer.SUBJECT}.678", b"{}") for _ in range(min(500, count))]
            await asyncio.gather(*futures)


ROUNDED_S = 1.0
"""nats-server keeps the times of deliveries in whole seconds: after its restart they count as so much earlier."""


def all_held(clients: Clients, count: int, drill: Drill, found: str = "") -> None:
    """Nothing is left in the stream: so what was received by nobody would be lost."""
    drill.found(f"{describe(clients)}{found}")
    assert clients.violations == []
    assert clients.deliveries.keys() == {str(number) for number in range(1, count + 1)}


@pytest.mark.drill("queue: nats-server restarts while two sidecars and four clients work", HOLDS)
async def test_broker_restart(world: World, drill: Drill, tmp_path_factory: pytest.TempPathFactory) -> None:
    count, away_s = drill.pick((2_000, 0.5), (50_000, 5.0))
    clients = Clients(early_s=ROUNDED_S)
    async with own_server(world, tmp_path_factory.mktemp("own")) as (own, server):
        await store(own, count)
        async with (
            sidecar(own) as (_, first),
            sidecar(own) as (_, second),
            clients.working((first, second), delete, delete, delete, delete),
        ):
            await clients.more_deleted(count // 4)
            await server.stop()
            await asyncio.sleep(away_s)
            await server.start()
            back_s = time.monotonic()
            await clients.all_deleted(own, count)
        drill.found(f"all deleted {time.monotonic() - back_s:.1f} s after its return")
        all_held(clients, count, drill)


@pytest.mark.drill("queue: a cluster of three (replicas 3), the consumer's leader killed again and again", HOLDS)
async def test_leader_killed(world: World, drill: Drill, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not drill.full:
        pytest.skip("three servers, and half a minute for what was on its way to a client: make drill")
    each, rounds = 10_000, 3
    clients = Clients(early_s=ROUNDED_S)
    async with own_cluster(world, tmp_path_factory.mktemp("cluster")) as (own, cluster):
        await settled(own)
        async with (
            sidecar(own) as (_, first),
            sidecar(own) as (_, second),
            clients.working((first, second), delete, delete, delete, delete),
        ):
            for number in range(1, rounds + 1):
                await store(own, each)
                await clients.more_deleted(each // 10)
                victim = await leader(own)
                await cluster.kill(victim)
                await clients.all_deleted(own, number * each)
                await cluster.start(victim)
                await settled(own)
    all_held(clients, rounds * each, drill, f"; longest silence {clients.longest_gap_s:.1f} s")


async def leader(world: World) -> int:
    """The number of the server that leads the consumer."""
    async with world.administrator() as admin:
        cluster = (await admin.consumer_info(STREAM, contract.CONSUMER)).cluster
    assert cluster
    return int(str(cluster.leader).rpartition("-")[2])


@pytest.mark.drill("queue: one of two sidecars is killed while its clients hold messages", HOLDS)
async def test_sidecar_killed(world: World, drill: Drill) -> None:
    count, rounds = drill.pick((1_000, 1), (50_000, 10))
    clients = Clients()
    await set_ack_wait(world, drill.pick(2, 30))
    await store(world, count)
    async with sidecar(world) as (_, steady), AsyncExitStack() as stack:
        for _ in range(rounds):
            task, victim = await stack.enter_async_context(sidecar(world))
            async with clients.working((victim, steady), delete, delete_after(0.1), delete, delete_after(0.1)):
                await clients.more_deleted(count // rounds // 4)
                task.child.signal(signal.SIGKILL)
                await task.child.wait()
                await clients.more_deleted(count // rounds // 4)
        async with clients.working((steady,), delete):
            await clients.all_deleted(world, count)
    all_held(clients, count, drill, f"; killed {rounds} times, {len(clients.unanswered)} deletions unanswered")


BEHAVIOURS = [
    pytest.param((keep, delete, delete), id="never deletes"),
    pytest.param((delete_twice, delete), id="deletes twice"),
    pytest.param((delete_after(LATE_S), delete_after(LATE_S), delete), id="deletes late"),
    pytest.param((delete, delete), id="shares the queue with another"),
]


@pytest.mark.drill("queue: a client {}", HOLDS)
@pytest.mark.parametrize("handles", BEHAVIOURS)
async def test_client(world: World, drill: Drill, handles: Sequence[Handle]) -> None:
    count = drill.pick(50, 20_000)
    clients = Clients()
    await store(world, count)
    async with (
        sidecar(world, QUEUE_MAX_DELIVER="1000") as (_, channel),
        clients.working((channel,), *handles, visibility_s=1),
    ):
        await clients.all_deleted(world, count)
    all_held(clients, count, drill)


@pytest.mark.drill("queue: a second without network, {}, between a sidecar and nats-server", HOLDS)
@pytest.mark.parametrize("how", ["cut", "stalled"])
async def test_no_network(world: World, drill: Drill, how: str) -> None:
    """The visibility is longer than what the server would give by itself: it must have heard of it."""
    count, rounds = drill.pick((1_000, 1), (50_000, 10))
    clients = Clients()
    await set_ack_wait(world, 2)
    await store(world, count)
    async with network(world.nats_url) as (between, url), sidecar(world.at(url)) as (_, channel):
        slow = delete_after(2.5)
        async with clients.working((channel,), delete, slow, delete, slow, visibility_s=5):
            for _ in range(rounds):
                await clients.more_deleted(count // rounds // 4)
                async with between.cut() if how == "cut" else between.stalled():
                    await asyncio.sleep(1.0)
            await clients.all_deleted(world, count)
    all_held(clients, count, drill, f"; longest silence {clients.longest_gap_s:.1f} s")


@pytest.mark.drill("queue: a client forges receipts while another works", f"each forged one refused; {HOLDS}")
async def test_forged_receipts(world: World, drill: Drill) -> None:
    count, attempts = drill.pick((500, 2_000), (20_000, 100_000))
    clients, chance = Clients(), random.Random(7)
    await store(world, count)
    async with sidecar(world) as (_, channel):
        stub = SQSServiceStub(channel)
        request = pb.SQSReceiveMessageRequest(visibility_timeout=2, wait_time=1, maximum_number_of_messages=10)
        real = [message.messageID for message in (await stub.ReceiveMessage(request)).messages]
        refused = 0
        async with clients.working((channel,), delete):
            for _ in range(0, attempts, 1000):
                forged = [forge(chance, real) for _ in range(1000)]
                answers = [
                    await stub.DeleteMessages(pb.SQSDeleteMessagesRequest(messageIDs=forged)),
                    await stub.ChangeVisibility(pb.SQSChangeVisibilityRequest(messageIDs=forged, visibility_timeout=0)),
                ]
                refused += sum(result.code == NOT_FOUND for answer in answers for result in answer.results)
            await clients.all_deleted(world, count)
    all_held(clients, count, drill, f"; {refused:,} of {2 * attempts:,} forged receipts refused")
    assert refused == 2 * attempts


def forge(chance: random.Random, real: Sequence[str]) -> str:
    """A receipt with one number of it, or one character, changed; another's last number; or anything."""
    receipt = chance.choice(real)
    numbers = receipt.split("-")
    place = chance.randrange(len(numbers))
    numbers[place] = str(int(numbers[place]) + chance.choice((-1, 1, 1000)))
    cut = chance.randrange(len(receipt))
    swapped = "-".join(
        [*chance.choice(real).split("-")[:-1], numbers[-1] if place == 5 else str(chance.getrandbits(56))]
    )
    made = chance.choice(("-".join(numbers), receipt[:cut] + receipt[cut + 1 :], swapped, "", "0-0-0-0-0-0", "é" * 9))
    return made if made not in real else "-"
