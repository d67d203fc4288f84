"""A bucket that is purged, and a stream that is made again, under a role that goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.contracts import devices as contract
from service.devices.presence import heard
from tests.support.devices.presence import Device, acknowledged, process, until, until_state
from tests.support.devices.world import DevicesWorld
from tests.support.world import eventually


async def test_a_purged_record_comes_back_with_the_next_readings(
    devices: DevicesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heard, "QUIET_S", 0.5, raising=False)
    device = Device(devices, "d1")
    async with process(devices) as one:
        await device.connect()
        await until_state(devices, "d1", "online")
        await device.reading(one)
        last = one.presence._heard._devices["d1"]
        await eventually(lambda: last.quiet_until_s > 0, within_s=10)
        await devices.admin.purge_stream(contract.BUCKET_STREAM)
        assert await devices.state("d1") == ""

        async def is_back() -> bool:
            await device.reading(one)
            return await devices.state("d1") == "online"

        await eventually(is_back, within_s=20)


async def test_a_stream_that_was_made_again_below_its_records_is_reported(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        for session in range(1, 4):
            await device.connect(session)
        await eventually(lambda: acknowledged(devices), within_s=10)
    stream = (await devices.admin.stream_info(contract.MQTT_STREAM)).config
    consumers = [
        (await devices.admin.consumer_info(contract.MQTT_STREAM, name)).config
        for name in (contract.DATA_CONSUMER, contract.LIFE_CONSUMER)
    ]
    await devices.admin.delete_stream(contract.MQTT_STREAM)
    await devices.admin.add_stream(stream)
    for config in consumers:
        await devices.admin.add_consumer(contract.MQTT_STREAM, config)

    def told(logs: Sequence[Mapping[str, Any]]) -> bool:
        return any("was made again" in str(line["event"]) and "purge KV_devices" in str(line) for line in logs)

    with capture_logs() as logs:
        async with process(devices):
            await eventually(lambda: told(logs), within_s=10)
    await devices.admin.purge_stream(contract.BUCKET_STREAM)
    with capture_logs() as logs:
        async with process(devices):
            await device.connect(session=4)
            await until_state(devices, "d1", "online")
            await device.will(session=4)
            await until(devices, ["down.d1"])
    assert not told(logs)
