"""Signs that came while no process looked: a device that was there is not called silent."""

from __future__ import annotations

import pytest

from service.contracts import devices as contract
from service.runtime.cancel import cancel
from tests.support.devices.presence import Device, acknowledged, kinds, other_outage, process, until, until_state
from tests.support.devices.world import DevicesWorld
from tests.support.world import eventually


async def is_over(devices: DevicesWorld, device: str) -> None:
    """Return when the device's timer has ended: the server left a marker."""

    async def has_marker() -> bool:
        found = await devices.admin.get_last_msg(contract.BUCKET_STREAM, f"{contract.KEY_PREFIX}{device}{contract.DUE}")
        return "Nats-Marker-Reason" in (found.headers or {})

    await eventually(has_marker, within_s=20)


@pytest.mark.parametrize("sign", ["connect", "will"])
async def test_a_device_that_published_all_the_time_and_connected_again_has_no_outage(
    devices: DevicesWorld, sign: str
) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect(session=1, silence=3)
        await until_state(devices, "d1", "online")
    await device.reading()
    await is_over(devices, "d1")
    await device.reading()
    if sign == "will":
        await device.will(session=1, delay=600)
    else:
        await device.connect(session=2, silence=600)
    await device.reading()
    async with process(devices):
        await eventually(lambda: acknowledged(devices), within_s=20)
        await eventually(lambda: acknowledged_ends(devices), within_s=20)
        await other_outage(devices, "d2")
        assert await kinds(devices) == ["down.d2"]


async def acknowledged_ends(devices: DevicesWorld) -> bool:
    info = await devices.admin.consumer_info(contract.BUCKET_STREAM, contract.EXPIRY_CONSUMER)
    return (info.num_pending or 0) + (info.num_ack_pending or 0) == 0


async def test_one_that_was_silent_before_it_connected_again_has_one(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect(session=1, silence=1)
        await until_state(devices, "d1", "online")
    await is_over(devices, "d1")
    await device.reading()
    await device.connect(session=2, silence=600)
    async with process(devices):
        await until(devices, ["down.d1", "up.d1"])


async def test_a_reading_that_waits_for_its_round_counts_at_the_end_of_the_timer(devices: DevicesWorld) -> None:
    """It is acknowledged, so the stream has it no more."""
    device = Device(devices, "d1")
    readings = await devices.admin.pull_subscribe_bind(contract.DATA_CONSUMER, contract.MQTT_STREAM)
    async with process(devices) as one:
        await device.connect(silence=3)
        await until_state(devices, "d1", "online")
        looking = one.presence._heard._looking
        assert looking
        await cancel(looking)  # its round does not come
        record = await one.presence.get("d1")
        assert record
        seq = await device.reading()
        for message in await readings.fetch(1, timeout=5):
            await message.ack_sync()
        one.presence.seen("d1", seq, int((record.written + 2) * 1e9))  # more than a third of the period
        await until(devices, ["down.d1"])
        ((_, body),) = await devices.events()
        assert body["seq"] == seq
