"""Devices at the real nats-server: what their credentials allow, and what reaches the role's consumers."""

from __future__ import annotations

import pytest

from benchmark.load.mqtt import Mqtt, Refused
from service.contracts import devices as contract
from tests.support.devices.world import HOST, DevicesWorld
from tests.support.world import eventually


async def test_a_devices_reading_waits_for_the_role(devices: DevicesWorld) -> None:
    device = await devices.connect("dev-1", will=b"")
    await device.publish("connect/dev-1", b"")
    await device.publish("data/dev-1/room/shelf.2", b"reading")
    assert await devices.backlog() == 1
    message = await devices.admin.get_msg(contract.MQTT_STREAM, 2)
    assert (message.subject, message.data) == ("$MQTT.msgs.data.dev-1.room.shelf//2", b"reading")
    device.abort()

    async def lives() -> bool:
        return await devices.backlog(contract.LIFE_CONSUMER) == 2

    await eventually(lives, what="the will")


async def test_a_device_publishes_as_itself_alone(devices: DevicesWorld) -> None:
    device = await devices.connect("dev-1")
    await device.publish("data/dev-2/t", b"forged")
    await device.publish("connect/dev-2", b"forged")
    await device.publish("data/dev-1/t", b"own")
    assert await devices.backlog() == 1
    assert await devices.backlog(contract.LIFE_CONSUMER) == 0
    await device.disconnect()


async def test_a_device_reads_the_pulse_and_nothing_else(devices: DevicesWorld) -> None:
    device = await devices.connect("dev-1")
    await device.subscribe("pulse")
    for topic in ("#", "data/#", "$MQTT/#"):
        with pytest.raises(PermissionError):
            await device.subscribe(topic)
    await device.disconnect()


async def test_a_stranger_does_not_connect(devices: DevicesWorld) -> None:
    for password in ("", "secret", devices.password("dev-1")[:-2]):
        with pytest.raises(Refused):
            await Mqtt.connect(HOST, devices.world.servers.mqtt_ports[0], "dev-1", user="dev-1", password=password)
