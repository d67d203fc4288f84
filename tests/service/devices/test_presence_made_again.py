"""A bucket that is purged, and a stream that is made again, under a role that goes on."""

from __future__ import annotations

import pytest

from service.contracts import devices as contract
from service.devices.presence import heard
from tests.support.devices.presence import Device, process, until_state
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
