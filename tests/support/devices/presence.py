"""Processes that keep presence, in the test's own process, and signs of devices on a real nats-server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from service.contracts import devices as contract
from service.devices.letters import letters
from service.devices.msg_pb2 import LWT, Connect, SensorData
from service.devices.presence.presence import Presence
from service.nats.connection import Connection
from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError
from tests.support.devices.world import DevicesWorld
from tests.support.world import eventually


def nats_settings(devices: DevicesWorld) -> dict[str, Any]:
    creds = base64.b64encode(devices.world.creds(contract.USER).encode()).decode()
    return {"nats_url": devices.world.nats_url, "nats_credentials": creds}


@asynccontextmanager
async def connection(devices: DevicesWorld) -> AsyncIterator[Connection]:
    """Connect as the role's user."""
    settings = NatsSettings(**nats_settings(devices))
    opened = Connection(settings, name="devices", inbox_prefix=contract.INBOX_PREFIX, on_lost=lambda _: None)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


class Process:
    """One process of the role, as far as presence goes."""

    def __init__(self, devices: DevicesWorld, opened: Connection, silence_s: int = 0) -> None:
        self.errors: list[ServiceError] = []
        self.connection = opened
        self.presence = Presence(opened, letters(opened, "life"), silence_s, self.errors.append)
        self._devices = devices

    async def start(self) -> None:
        for need in self.presence.needs():
            await need.look()
        await self.presence.start()


@asynccontextmanager
async def process(devices: DevicesWorld, silence_s: int = 0, *, start: bool = True) -> AsyncIterator[Process]:
    async with connection(devices) as opened:
        one = Process(devices, opened, silence_s)
        if start:
            await one.start()
        try:
            yield one
        finally:
            await one.presence.drain(5)
            await one.presence.close()
            assert one.errors == []


class Device:
    """Stores signs as the server does when a device publishes them. Each returns its sequence."""

    def __init__(self, devices: DevicesWorld, name: str) -> None:
        self.name = name
        self._devices = devices

    async def connect(self, session: int = 0, silence: int = 0) -> int:
        payload = Connect(device=self.name, session=session, silence=silence)
        return await self.store(f"connect.{self.name}", payload.SerializeToString())

    async def will(self, session: int = 0, delay: int = 1) -> int:
        payload = LWT(device=self.name, delay=delay, session=session)
        return await self.store(f"lwt.{self.name}", payload.SerializeToString())

    async def reading(self, *processes: Process) -> int:
        """Store a reading, and let the processes see it."""
        payload = SensorData(device=self.name, temp=1, rh=2, epoch=3).SerializeToString()
        seq = await self.store(f"data.{self.name}.t", payload)
        for each in processes:
            each.presence.seen(self.name, seq)
        return seq

    async def store(self, subject: str, payload: bytes) -> int:
        stored = await self._devices.admin.publish(f"{contract.MQTT_PREFIX}{subject}", payload, timeout=10)
        return stored.seq


async def acknowledged(devices: DevicesWorld, consumer: str = contract.LIFE_CONSUMER) -> bool:
    return await devices.backlog(consumer) == 0


async def kinds(devices: DevicesWorld) -> list[str]:
    return [name for name, _ in await devices.events()]


async def until(devices: DevicesWorld, expected: Sequence[str]) -> None:
    async def has() -> bool:
        return await kinds(devices) == list(expected)

    try:
        await eventually(has, within_s=20)
    except AssertionError:
        raise AssertionError(f"{await kinds(devices)} in place of {expected}") from None


async def until_state(devices: DevicesWorld, name: str, state: str) -> None:
    async def has() -> bool:
        return await devices.state(name) == state

    await eventually(has, within_s=20, what=f"{name} {state}, and not {await devices.state(name)},")


async def other_outage(devices: DevicesWorld, name: str, delay: int = 1) -> None:
    """Return when the outage of another device is reported: nothing about this one comes after that."""
    await Device(devices, name).will(delay=delay)

    async def told() -> bool:
        return f"down.{name}" in await kinds(devices)

    await eventually(told, within_s=20)
