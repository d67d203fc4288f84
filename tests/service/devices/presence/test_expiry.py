"""Timers on a real nats-server: silence, renewals, markers, many devices at once, a server that is lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from control_plane.desired import ADMINISTRATOR
from service.contracts import devices as contract
from service.devices.presence.heard import MAX_DEVICES, Heard
from service.devices.presence.keeper import Call
from service.devices.presence.record import LONGEST_S
from tests.support.devices.presence import Device, acknowledged, process
from tests.support.devices.world import DevicesWorld, make_devices
from tests.support.own_servers import own_server
from tests.support.world import World, eventually


async def told(devices: DevicesWorld, *names: str) -> None:
    async def all_of_them() -> bool:
        return [name for name, _ in await devices.events()] == list(names)

    await eventually(all_of_them, within_s=20, what=f"{names}")


async def test_a_device_that_hangs_is_down_and_up_at_its_next_reading(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices) as one:
        seq = await device.connect(silence=1)
        await told(devices, "down.d1")
        (_, body), *_ = await devices.events()
        assert (body["reason"], body["seq"]) == ("silence", seq)
        await device.reading(one)
        await told(devices, "down.d1", "up.d1")
        await told(devices, "down.d1", "up.d1", "down.d1")  # it hangs again


async def test_readings_keep_a_device_there_and_renew_thrice_a_period(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices) as one, process(devices) as two:
        await device.connect(silence=3)
        first = time.monotonic()
        before = (await devices.admin.stream_info(contract.BUCKET_STREAM)).state.last_seq
        while time.monotonic() - first < 9:
            await device.reading(one, two)
            await asyncio.sleep(0.05)
        assert await devices.events() == []
        after = (await devices.admin.stream_info(contract.BUCKET_STREAM)).state.last_seq
        took_s = time.monotonic() - first
        assert after - before <= 2 * (took_s + 2), "a record and a timer for each renewal, one in each second"
        await told(devices, "down.d1")


async def test_the_setting_is_for_devices_that_name_no_silence(devices: DevicesWorld) -> None:
    async with process(devices, silence_s=1):
        await Device(devices, "d1").connect()
        await told(devices, "down.d1")


async def test_a_device_that_names_its_silence_later_is_not_called_silent(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices) as one, process(devices) as two:
        for silence in (0, 600, 1):
            await device.connect(silence=silence)
            first = time.monotonic()
            while time.monotonic() - first < 3:
                await device.reading(one, two)
                await asyncio.sleep(0.1)
        assert await devices.events() == []
        await told(devices, "down.d1")


async def test_a_device_that_only_sends_readings_is_known_and_watched(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices, silence_s=1) as one:
        await device.reading(one)
        await told(devices, "down.d1")


async def test_readings_that_waited_while_no_process_was_there_are_no_silence(devices: DevicesWorld) -> None:
    """They are not acknowledged yet: the marker of the timer that ended meanwhile finds them."""
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect(silence=1)

        async def is_known() -> bool:
            return await devices.state("d1") == "online"

        await eventually(is_known)
    await device.reading()
    await asyncio.sleep(3)  # the marker is there, and nobody
    await device.reading()
    async with process(devices):
        await told(devices, "down.d1")  # since the last of them
        (_, body), *_ = await devices.events()
        assert body["seq"] == 3


async def test_a_silence_that_ended_while_no_process_was_there_is_reported(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect(silence=2)

        async def is_known() -> bool:
            return await devices.state("d1") == "online"

        await eventually(is_known)
    await asyncio.sleep(4)
    await device.reading()
    async with process(devices) as one:
        await told(devices, "down.d1", "up.d1")
        assert one.presence.stats.downs == 1


async def test_markers_stay_for_a_day(devices: DevicesWorld) -> None:
    config = (await devices.admin.stream_info(contract.BUCKET_STREAM)).config.as_dict()
    assert config["subject_delete_marker_ttl"] == 86_400 * 10**9


async def test_a_timer_of_the_longest_time_is_taken_by_the_server(devices: DevicesWorld) -> None:
    async with process(devices):
        await Device(devices, "d1").will(delay=LONGEST_S)
        await Device(devices, "d2").connect(silence=LONGEST_S)
        await eventually(lambda: acknowledged(devices), within_s=10)
        assert await devices.state("d1") == "leaving"
        assert await devices.state("d2") == "online"


async def test_many_that_drop_at_once_are_each_reported_once(devices: DevicesWorld) -> None:
    names = [f"d{number}" for number in range(1_000)]
    async with process(devices) as one, process(devices) as two:
        for start in range(0, len(names), 250):
            await asyncio.gather(*(Device(devices, name).connect(session=1) for name in names[start : start + 250]))
        for start in range(0, len(names), 250):
            await asyncio.gather(*(Device(devices, name).will(session=1) for name in names[start : start + 250]))

        async def all_down() -> bool:
            return (await devices.admin.stream_info(contract.OUTAGES_STREAM)).state.messages >= len(names)

        await eventually(all_down, within_s=60)
        assert one.presence.stats.downs + two.presence.stats.downs == len(names)
    assert sorted(name for name, _ in await devices.events()) == sorted(f"down.{name}" for name in names)


async def test_what_a_process_remembers_is_bounded(devices: DevicesWorld) -> None:
    class Nothing:
        async def bring(self, calls: dict[str, Call]) -> dict[str, None]:
            return {}

    async with process(devices, start=False) as one:
        heard = Heard(one.connection.nc, Nothing())  # type: ignore[arg-type]
        for number in range(MAX_DEVICES + 5):
            heard.seen(f"d{number}", number, 1)
        assert heard.devices == 5


@pytest.mark.parametrize("how", ["readings", "markers"])
async def test_a_server_that_is_lost_and_back(world: World, tmp_path: Path, how: str) -> None:
    async with (
        own_server(world, tmp_path / "own") as (own, server),
        make_devices(own) as devices,
        own.client(ADMINISTRATOR.name) as again,
    ):
        devices.admin = again.jetstream()  # it connects again
        await devices.shorten_ack_wait()
        device, other = Device(devices, "d1"), Device(devices, "d2")
        async with process(devices) as one:
            await device.connect()
            await device.reading(one)
            await other.connect()
            await eventually(lambda: acknowledged(devices), within_s=10)
            await device.will(delay=600 if how == "readings" else 3)

            async def is_leaving() -> bool:
                return await devices.state("d1") == "leaving"

            await eventually(is_leaving, within_s=10)
            await server.stop()
            await server.start()

            async def is_back() -> bool:
                return one.connection.nc.is_connected and devices.admin._nc.is_connected

            await eventually(is_back, within_s=30)
            if how == "readings":
                await device.reading(one)

                async def is_online() -> bool:
                    return await devices.state("d1") == "online"

                await eventually(is_online, within_s=30)
            await other.will(delay=1)
            expected = {"down.d2"} | ({"down.d1"} if how == "markers" else set())

            async def all_told() -> bool:
                return {name for name, _ in await devices.events()} == expected

            await eventually(all_told, within_s=40)
            assert one.presence.problem() == ""
