"""Devices that publish numbered readings, and send again what was not acknowledged."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.devices.msg_pb2 import SensorData
from tests.support.devices.world import DevicesWorld

FIRST_S = 1_764_000_000
"""Epoch of a device's first reading; each has the next second."""
WINDOW = 500
"""Most readings of a device without their PUBACK."""
AGAIN_S = 0.1


def reading(device: str, epoch: int, temp: float = 21.5, rh: float = 55.25) -> bytes:
    return SensorData(device=device, temp=temp, rh=rh, epoch=epoch).SerializeToString()


@dataclass
class Sent:
    numbers: Counter[str] = field(default_factory=Counter)
    """Device -> how many readings it has sent. After `sending` each has its PUBACK."""
    connects: int = 0

    @property
    def total(self) -> int:
        return self.numbers.total()

    def readings(self) -> set[tuple[str, int]]:
        """Return device and epoch of each reading."""
        return {(name, FIRST_S + at) for name, count in self.numbers.items() for at in range(count)}


@asynccontextmanager
async def sending(devices: DevicesWorld, names: Iterable[str], every_s: float = 0.01) -> AsyncIterator[Sent]:
    """Let devices publish meanwhile; return when each reading has its PUBACK, however long the server is away."""
    sent, stop = Sent(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(_publish(devices, name, every_s, sent, stop))
        try:
            yield sent
        finally:
            stop.set()


async def _publish(devices: DevicesWorld, name: str, every_s: float, sent: Sent, stop: asyncio.Event) -> None:
    left: Mapping[int, bytes] = {}
    for node in itertools.cycle(range(len(devices.world.servers.mqtt_ports))):
        try:
            client = await devices.connect(name, node=node, unacknowledged=left)
        except (OSError, TimeoutError):
            await asyncio.sleep(AGAIN_S)
            continue
        sent.connects += 1
        try:
            while not client.closed.done():
                if stop.is_set() and not client.unacknowledged:
                    await client.disconnect()
                    return
                if not stop.is_set() and len(client.unacknowledged) < WINDOW:
                    number = sent.numbers[name]
                    client.send(f"data/{name}/room", reading(name, FIRST_S + number, temp=number % 100))
                    sent.numbers[name] += 1
                await asyncio.sleep(every_s)
        finally:
            left = client.unacknowledged
            client.abort()
        await asyncio.sleep(AGAIN_S)
