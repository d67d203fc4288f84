"""Drills on devices: each reading that a device was acknowledged is one row, whatever the role, NATS and others do."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import nats.errors
import pytest
from nats.js.errors import APIError

from benchmark.load.mqtt import Mqtt, Will
from local.demos.webhook import webhook
from local.system import Task
from service.contracts import devices as contract
from service.devices.msg_pb2 import LWT, Connect
from tests.support.devices.load import FIRST_S, reading, sending
from tests.support.devices.world import HOST, DevicesWorld, make_devices
from tests.support.drills.drill import Drill, memory_mib
from tests.support.dynamodb.faulty import FaultyDynamoDB, stall
from tests.support.own_servers import own_cluster, own_server
from tests.support.world import World, eventually, metric

pytestmark = [pytest.mark.xdist_group("drills"), pytest.mark.timeout(900)]

MEMORY_MIB = 120
POSTS = 10


@pytest.fixture
async def devices(world: World, proxy: FaultyDynamoDB) -> AsyncIterator[DevicesWorld]:
    """Its tasks reach DynamoDB through the proxy."""
    async with make_devices(world) as devices:
        devices.env = proxy.env
        yield devices


def named(count: int) -> list[str]:
    return [f"d{number}" for number in range(count)]


async def killed(task: Task) -> None:
    task.child.signal(signal.SIGKILL)
    await task.child.wait()


async def emptied(devices: DevicesWorld, within_s: float = 90) -> float:
    """Wait until no reading waits; return the seconds that took."""
    began = time.monotonic()

    async def empty() -> bool:
        try:
            return await devices.is_written()
        except (nats.errors.Error, APIError):  # a cluster without a leader is silent, or says so
            return False

    await eventually(empty, within_s=within_s, what="an empty backlog")
    return time.monotonic() - began


@pytest.mark.drill(
    "devices: the role is killed under load, again and again",
    "every reading with a PUBACK is a row, once",
)
async def test_the_role_is_killed(devices: DevicesWorld, drill: Drill) -> None:
    devices.env = {}
    await devices.shorten_ack_wait()
    async with sending(devices, named(drill.pick(5, 50))) as sent:
        for _ in range(drill.pick(2, 8)):
            async with devices.task() as task:
                enough = sent.total + drill.pick(50, 2_000)
                await eventually(lambda: sent.total > enough, within_s=60, what="readings")  # noqa: B023
                await killed(task)
    async with devices.task():
        took_s = await emptied(devices)
    drill.found(f"{sent.total:,} readings; the backlog was gone {took_s:.1f} s after the last start")
    assert devices.readings() == sorted(sent.readings())


@pytest.mark.drill(
    "devices: two roles, one of them frozen with readings beyond ack_wait (2 s), then killed",
    "the other writes them all; every reading with a PUBACK is a row, once",
)
async def test_two_roles(devices: DevicesWorld, proxy: FaultyDynamoDB, drill: Drill) -> None:
    await devices.shorten_ack_wait()
    proxy.fault = stall(0.05)
    async with devices.task() as first, devices.task() as second:
        async with sending(devices, named(drill.pick(5, 50))) as sent:
            await eventually(lambda: sent.total > drill.pick(200, 5_000), within_s=60, what="readings")
            first.child.signal(signal.SIGSTOP)
            enough = sent.total + drill.pick(100, 2_000)
            await eventually(lambda: sent.total > enough, within_s=60, what="more readings")
            await killed(first)
        took_s = await emptied(devices)
        rows = await metric(second, "devices_readings_total")
    drill.found(f"{sent.total:,} readings, {rows:,.0f} by the other; its backlog was gone {took_s:.1f} s later")
    assert devices.readings() == sorted(sent.readings())


@pytest.mark.drill(
    "devices: nats-server is {} under load and started again",
    "the role goes on by itself; every reading with a PUBACK is a row, once",
)
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_the_broker_ends(world: World, drill: Drill, tmp_path: Path, how: str) -> None:
    async with (
        own_server(world, tmp_path / "nats") as (own, server),
        make_devices(own) as devices,
        devices.task() as task,
    ):
        await devices.shorten_ack_wait()
        async with sending(devices, named(drill.pick(5, 50))) as sent:
            for _ in range(drill.pick(1, 3)):
                enough = sent.total + drill.pick(100, 2_000)
                await eventually(lambda: sent.total > enough, within_s=60, what="readings")  # noqa: B023
                await (server.kill() if how == "killed" else server.stop())
                await server.start()
            enough = sent.total + drill.pick(50, 2_000)
            await eventually(lambda: sent.total > enough, within_s=60, what="readings after the restart")
        async with own.administrator() as devices.admin:
            took_s = await emptied(devices)
        assert task.child.process.returncode is None
    drill.found(f"{sent.total:,} readings, {sent.connects} connections; the backlog was gone {took_s:.1f} s after")
    assert devices.readings() == sorted(sent.readings())


@pytest.mark.drill(
    "devices: the node of three that leads $MQTT_msgs is killed while devices send again what was not acknowledged",
    "every reading with a PUBACK is a row, once",
)
async def test_a_node_of_three_is_lost(world: World, drill: Drill, tmp_path: Path) -> None:
    if not drill.full:
        pytest.skip("three servers that elect a leader take their time: make drill")
    async with own_cluster(world, tmp_path / "cluster") as (own, cluster), make_devices(own) as devices:
        await devices.shorten_ack_wait()
        leads = (await devices.admin.stream_info(contract.MQTT_STREAM)).cluster
        assert leads
        assert leads.leader
        number = int(leads.leader.rpartition("-")[2])
        urls = own.nats_url.split(",")
        left = own.at(",".join(url for url in urls if url != urls[number]))
        async with devices.task(NATS_URL=",".join([urls[number], *urls])):
            async with sending(devices, named(50)) as sent:
                await eventually(lambda: sent.total > 5_000, within_s=60, what="readings")
                await cluster.kill(number)
                await eventually(lambda: sent.total > 10_000, within_s=120, what="readings without that node")
                await cluster.start(number)
            async with left.administrator() as devices.admin:
                took_s = await emptied(devices, within_s=180)
    drill.found(f"{sent.total:,} readings, {sent.connects} connections; the backlog was gone {took_s:.1f} s after")
    assert devices.readings() == sorted(sent.readings())


@pytest.mark.drill(
    "devices: $MQTT_msgs is full for a while, because no role reads",
    "devices are closed and send again; every reading with a PUBACK is a row, once",
)
async def test_the_stream_is_full(devices: DevicesWorld, drill: Drill) -> None:
    config = (await devices.admin.stream_info(contract.MQTT_STREAM)).config
    await devices.admin.update_stream(dataclasses.replace(config, max_bytes=64 * 1024))
    async with AsyncExitStack() as role:
        async with sending(devices, named(5)) as sent:
            await eventually(lambda: sent.connects > 15, within_s=60, what="devices that were closed")
            await asyncio.sleep(drill.pick(0, 60))
            kept = (await devices.admin.stream_info(contract.MQTT_STREAM)).state.messages
            waiting, began = sent.total - kept, time.monotonic()
            await role.enter_async_context(devices.task())
            enough = sent.total + 200
            await eventually(lambda: sent.total > enough, within_s=60, what="readings once there is room")
        await emptied(devices)
        took_s = time.monotonic() - began
    drill.found(
        f"{kept:,} readings were kept and {waiting:,} refused; {sent.total:,} rows, {sent.connects} connections, "
        f"all written {took_s:.1f} s after a role began"
    )
    assert waiting > 0
    assert devices.readings() == sorted(sent.readings())


@pytest.mark.drill(
    "devices: 10,000 drop at once (short: 200)",
    f"an event for each, once; at most {POSTS} posts that name each once",
)
async def test_all_drop_at_once(devices: DevicesWorld, drill: Drill) -> None:
    devices.env = {}
    names, delay_s = named(drill.pick(200, 10_000)), 2
    async with webhook() as hook, devices.task(OUTAGE_WEBHOOK=hook.url) as task:
        clients = list[Mqtt]()
        for first in range(0, len(names), 100):
            clients += await asyncio.gather(*(_alive(devices, name, delay_s) for name in names[first : first + 100]))

        async def online() -> bool:
            return await metric(task, "devices_connects_total") == len(names)

        await eventually(online, within_s=120, what="all devices online")
        dropped_s = time.monotonic()
        for client in clients:
            client.abort()

        async def told() -> bool:
            return await metric(task, "devices_downs_total") >= len(names)

        await eventually(told, within_s=drill.pick(60, 180), what="an event for each")
        events_s = time.monotonic() - dropped_s - delay_s
        await eventually(lambda: len(hook.named("down")) >= len(names), within_s=60, what="posts that name all")
    down = [subject for subject, _ in await devices.events()]
    drill.found(f"{len(down):,} events, the last {events_s:.1f} s after the delay; {len(hook.posts)} posts")
    assert sorted(down) == sorted(f"down.{name}" for name in names)
    assert sorted(hook.named("down")) == sorted(names)
    assert len(hook.posts) <= POSTS


async def _alive(devices: DevicesWorld, name: str, delay_s: int) -> Mqtt:
    client = await devices.connect(name, will=LWT(device=name, delay=delay_s, session=1).SerializeToString())
    await client.publish(f"connect/{name}", Connect(device=name, session=1).SerializeToString())
    return client


@pytest.mark.drill(
    "devices: 100,000 hostile publishes (short: 600): topics, payloads, client ids of others, wills on others' topics",
    f"none is a row, none changes another device; honest readings are rows, once; at most {MEMORY_MIB} MiB",
)
async def test_hostile_publishes(devices: DevicesWorld, drill: Drill) -> None:
    devices.env = {}
    count, dice = drill.pick(600, 100_000), random.Random(29)
    async with devices.task() as task:
        victim = await _alive(devices, "victim", 0)
        async with sending(devices, named(3)) as sent:
            done = 0
            while done < count:
                done += await _attack(devices, dice, min(200, count - done))
        await victim.publish("data/victim/room", reading("victim", FIRST_S))
        took_s = await emptied(devices)
        dead = await metric(task, "devices_dead_letters_total")
        memory = memory_mib(task)
        down = [subject for subject, _ in await devices.events()]
        await victim.disconnect()
    drill.found(f"{count:,} publishes, {dead:,.0f} dead letters; {sent.total:,} honest readings; {memory:.0f} MiB")
    assert took_s < 60
    assert devices.readings() == sorted(sent.readings() | {("victim", FIRST_S)})
    assert "down.victim" not in down
    assert memory <= MEMORY_MIB


async def _attack(devices: DevicesWorld, dice: random.Random, count: int) -> int:
    """Publish as the device `evil` what no honest one does, then drop with a will for another. Return how many it sent.

    nats-server closes a connection whose client id was taken over a moment ago: then it sends nothing.
    """
    will = Will("lwt/victim", LWT(device="victim", session=9).SerializeToString())
    port, password = devices.world.servers.mqtt_ports[0], devices.password("evil")
    try:
        evil = await Mqtt.connect(HOST, port, dice.choice(("evil", "d0")), user="evil", password=password, will=will)
    except ConnectionError:
        return 0
    for _ in range(count):
        match dice.randrange(6):
            case 0:
                evil.send("data/evil/room", dice.randbytes(dice.randrange(60)))
            case 1:
                evil.send("data/evil/room", dice.randbytes(dice.choice((4_097, 20_000))))
            case 2:
                evil.send("data/victim/room", reading("victim", dice.randrange(10**9)))
            case 3:
                evil.send("data/evil/room", reading("victim", dice.randrange(10**9)))
            case 4:
                evil.send(f"data/evil/{dice.choice(('', '/', '//', '.', 'x/'))}", reading("evil", -1))
            case _:
                evil.send(dice.choice(("connect/victim", "lwt/victim", "connect/evil", "pulse")), dice.randbytes(9))
    async with asyncio.timeout(60):
        while evil.unacknowledged and not evil.closed.done():
            await asyncio.sleep(0.01)
    evil.abort()
    return count
