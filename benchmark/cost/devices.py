"""Measure the role `devices`: its CPU per reading beside plain consumers, its memory, and how much of nats-server's
memory a connected device takes.

The readings of a turn are published while the process is stopped, as nats-server publishes what a device sends: to the
subjects of `$MQTT_msgs`. The role and each plain consumer (`bare_readings`) have their own accounts.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import psutil
from nats.js import JetStreamContext

from benchmark.cost.draining import CHUNK, Measure, draining, post_all
from benchmark.cost.rounds import in_turns, memory_after
from benchmark.load.job import NatsTarget
from benchmark.load.mqtt import Mqtt
from benchmark.load.transport import connected
from local.process import Child
from service.contracts import devices as contract
from service.devices.msg_pb2 import Connect, SensorData
from service.nats.client import NatsClient, header_block
from service.nats.jetstream import backlog

READINGS_PER_S: Final = 8_000
"""Readings per second of a step: a turn is a fixed number of readings, so that none is left for the next turn."""
AT_A_TIME: Final = 50_000
"""Most readings that may pile up: they must fit into the server's stream."""
CONNECTING: Final = 50
HEADERS: Final = header_block({"Nmqtt-Pub": "1"})
"""What nats-server adds to a QoS 1 message."""


@dataclass(frozen=True)
class Task:
    """A role or a plain consumer, and a user with every permission in its account."""

    child: Child
    admin: NatsTarget


@dataclass(frozen=True)
class DevicesCost:
    """Medians of the rounds' ratios, and memory."""

    cpu_over_bare: float
    """CPU per reading, relative to a consumer that only acknowledges."""
    cpu_over_writing: float
    """CPU per reading, relative to a consumer that writes the same rows."""
    rate_of_writing: float
    memory: Sequence[tuple[int, float]]
    """(readings so far, resident MiB of the role)."""
    connection_kib: float
    """Resident KiB of nats-server per connected device."""


async def beside(
    role: Measure, bare: Measure, writing: Measure, *, rounds: int, step_s: float, say: Callable[[str], None]
) -> tuple[float, float, float]:
    """Measure all three in turns; return the medians of `cpu_over_bare`, `cpu_over_writing` and `rate_of_writing`."""
    turns = (role, bare, writing)
    count = max(1, round(step_s * READINGS_PER_S / CHUNK)) * CHUNK
    for measure in turns:
        await measure(CHUNK)
    over_bare, over_writing, of_writing = [], [], []
    async for ours, least, same in in_turns([partial(measure, count) for measure in turns], rounds):
        over_bare.append(ours.cpu_us / least.cpu_us)
        over_writing.append(ours.cpu_us / same.cpu_us)
        of_writing.append(ours.rate / same.rate)
        say(
            f"devices: {ours.rate:,.0f} readings/s at {ours.cpu_us:.1f} us of CPU; a plain consumer that writes them "
            f"{same.rate:,.0f} at {same.cpu_us:.1f} us, one that only acknowledges at {least.cpu_us:.1f} us"
        )
    return statistics.median(over_bare), statistics.median(over_writing), statistics.median(of_writing)


@asynccontextmanager
async def reading(task: Task) -> AsyncIterator[Measure]:
    """Yield a function that makes the process take readings; it raises `BenchmarkError` if that does not end."""
    async with connected(task.admin) as admin:
        jetstream = admin.jetstream()
        yield draining(task.child, partial(_publish, admin), partial(_backlog, jetstream, contract.DATA_CONSUMER))


async def memory(
    task: Task, measure: Measure, after: Sequence[int], online: int, say: Callable[[str], None]
) -> list[tuple[int, float]]:
    """Return the role's memory after growing numbers of readings, while `online` devices are connected."""
    async with connected(task.admin) as admin:
        await _greet(admin, online)
        while await _backlog(admin.jetstream(), contract.LIFE_CONSUMER):
            await asyncio.sleep(0.1)
    return await memory_after(after, measure, task.child.pid, "readings", say, at_a_time=AT_A_TIME)


async def connection_kib(
    port: int, user: str, password: str, server: Child, connections: int, say: Callable[[str], None]
) -> float:
    """Connect devices, each subscribed to the pulse at QoS 0; return by how much each makes nats-server grow."""
    process = psutil.Process(server.pid)

    async def some(first: int) -> list[Mqtt]:
        numbers = range(first, connections, CONNECTING)
        return [await _device(port, user, password, number) for number in numbers]

    await _device(port, user, password, connections)  # the first one creates streams and more
    before = process.memory_info().rss
    connected_devices = await asyncio.gather(*map(some, range(CONNECTING)))
    kib = float(process.memory_info().rss - before) / 1024 / connections
    for device in (device for devices in connected_devices for device in devices):
        device.abort()
    say(f"devices: {kib:.1f} KiB of nats-server for each of {connections:,} connected")
    return kib


async def _device(port: int, user: str, password: str, number: int) -> Mqtt:
    device = await Mqtt.connect("127.0.0.1", port, f"device-{number}", user=user, password=password, keepalive_s=600)
    await device.subscribe(contract.PULSE_SUBJECT)
    return device


async def _publish(admin: NatsClient, count: int) -> None:
    """Publish readings with contents that no other turn has."""
    now = int(time.time())

    def post(number: int) -> None:
        device = f"device-{number % 1000}"
        reading = SensorData(device=device, temp=number / 128, rh=50, epoch=now)
        subject = f"{contract.MQTT_PREFIX}data.{device}.climate"
        admin.post(subject, reading.SerializeToString(), headers=HEADERS)

    await post_all(admin, count, post)


async def _greet(admin: NatsClient, devices: int) -> None:
    def post(number: int) -> None:
        device = f"device-{number}"
        connect = Connect(device=device, session=1).SerializeToString()
        admin.post(f"{contract.MQTT_PREFIX}connect.{device}", connect, headers=HEADERS)

    await post_all(admin, devices, post)


async def _backlog(jetstream: JetStreamContext, consumer: str) -> int:
    return backlog(await jetstream.consumer_info(contract.MQTT_STREAM, consumer))
