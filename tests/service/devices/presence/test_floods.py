"""A device with any number of connects and wills that move no record: the others do not wait for it."""

from __future__ import annotations

import asyncio
import time

import pytest

from service.devices.presence import keeper
from service.devices.presence.keeper import Call
from service.devices.presence.record import Reading, Record
from tests.support.devices.presence import Device, Process, process, until_state
from tests.support.devices.world import DevicesWorld


async def flood(device: Device, how: str, signs: int) -> int:
    """Store signs that change no record; return the last one's sequence."""
    last = 0
    for _ in range(signs):
        if how == "late":
            last = await device.will(session=4)
        else:
            last = await device.store(f"connect.{device.name}", b"nonsense")
    return last


async def look(one: Process, seq: int) -> Record:
    """Let a process look at the device `bad` because of a reading."""
    async with asyncio.timeout(20):
        records = await one.presence._keeper.bring({"bad": Call(reading=Reading(seq, time.time()))})
    return records["bad"]


@pytest.mark.parametrize("how", ["unreadable", "late"])
async def test_a_device_with_many_of_them_is_looked_at_to_the_end(
    devices: DevicesWorld, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(keeper, "LIVES", 2)
    bad = Device(devices, "bad")
    async with process(devices, start=False) as one:
        await one.presence._asker.start()
        if how == "late":
            first = await bad.connect(session=5, silence=600)
            assert (await look(one, first)).session == 5
        last = await flood(bad, how, 7)
        await bad.connect(session=6, silence=600)
        will = await bad.will(session=6, delay=600)
        await flood(bad, how, 3)
        record = await look(one, last)
        assert (record.state, record.session, record.seq) == ("leaving", 6, will)


async def test_others_do_not_wait_until_its_signs_are_read(
    devices: DevicesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LIVES", 1)
    bad, good = Device(devices, "bad"), Device(devices, "good")
    await flood(bad, "unreadable", 40)
    seq = await good.reading()
    async with process(devices, start=False) as one:
        await one.presence._asker.start()
        long = asyncio.create_task(look(one, seq))
        async with asyncio.timeout(20):
            while not one.presence._keeper._round.locked():
                await asyncio.sleep(0)
            await one.presence._keeper.bring({"good": Call(reading=Reading(seq, time.time()))})
        assert not long.done()
        assert (await long).state == "online"


async def test_they_do_not_stop_a_process(devices: DevicesWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's reading is looked at while those that received its signs wait to acknowledge them."""
    monkeypatch.setattr(keeper, "LIVES", 2)
    bad, good = Device(devices, "bad"), Device(devices, "good")
    await good.connect()
    await flood(bad, "unreadable", 50)
    async with process(devices, start=False) as one:
        await one.presence._asker.start()
        await one.presence._heard.start()
        await bad.reading(one)
        await asyncio.sleep(1)  # its round has begun
        await one.presence._lives.start(one.presence._called)
        await until_state(devices, "good", "online")
        await until_state(devices, "bad", "online")
