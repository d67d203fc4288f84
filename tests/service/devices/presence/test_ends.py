"""Processes that are away, that end between two steps, and that meet each other's changes, on a real nats-server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from service.contracts import devices as contract
from service.devices.presence import bucket as buckets
from service.devices.presence import events as events_module
from service.devices.presence import keeper
from service.devices.presence.record import Reading
from tests.support.devices.presence import (
    Device,
    acknowledged,
    kinds,
    other_outage,
    process,
    until,
    until_state,
)
from tests.support.devices.world import DevicesWorld
from tests.support.world import eventually


async def test_an_outage_that_ended_while_no_process_was_there_is_reported(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect(session=1)
        await until_state(devices, "d1", "online")
    await device.will(session=1, delay=1)
    await asyncio.sleep(1.2)
    await device.connect(session=2)
    async with process(devices):
        await until(devices, ["down.d1", "up.d1"])
        assert await devices.state("d1") == "online"


async def test_one_in_time_is_not(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect(session=1)
        await until_state(devices, "d1", "online")
    await device.will(session=1, delay=600)
    await device.connect(session=2)
    async with process(devices):
        await other_outage(devices, "d2")
        assert await kinds(devices) == ["down.d2"]


async def test_a_process_that_was_away_tells_what_ended_meanwhile(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect()
        await device.will(delay=1)
        await until_state(devices, "d1", "leaving")
    await asyncio.sleep(1.5)
    async with process(devices):
        await until(devices, ["down.d1"])


async def test_also_where_the_marker_is_gone(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect()
        await device.will(delay=600)
        await until_state(devices, "d1", "leaving")
    await devices.admin.purge_stream(contract.BUCKET_STREAM, subject=f"{contract.KEY_PREFIX}d1{contract.DUE}")
    async with process(devices):
        await until(devices, ["down.d1"])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["write", "publish"])
async def test_a_process_that_ends_between_two_steps_loses_and_doubles_nothing(
    devices: DevicesWorld, monkeypatch: pytest.MonkeyPatch, step: str, *, after: bool
) -> None:
    await devices.shorten_ack_wait()
    device = Device(devices, "d1")
    kind: type[Any] = buckets.Bucket if step == "write" else events_module.Events
    original = getattr(kind, step)
    async with process(devices) as one:
        await device.connect()
        await device.will(delay=1)
        await until_state(devices, "d1", "leaving")
        await eventually(lambda: acknowledged(devices), within_s=10)
        reached = asyncio.Event()

        async def ends(self: Any, *given: Any) -> Any:
            if after:
                await original(self, *given)
            reached.set()
            await asyncio.Event().wait()  # for ever: the process does nothing more

        monkeypatch.setattr(kind, step, ends)
        async with asyncio.timeout(10):
            await reached.wait()
        for feed in (one.presence._lives, one.presence._ends):
            feed._keeper = None  # type: ignore[assignment]
            await feed.close()
        monkeypatch.setattr(kind, step, original)
        async with process(devices):
            await until(devices, ["down.d1"])
            await device.connect()
            await until(devices, ["down.d1", "up.d1"])
            await device.will(delay=1)
            await until(devices, ["down.d1", "up.d1", "down.d1"])
            await eventually(lambda: acknowledged(devices, contract.LIFE_CONSUMER), within_s=10)


async def test_an_event_that_was_not_published_comes_before_the_next(devices: DevicesWorld) -> None:
    """The device comes back before the marker is delivered again: who handles that finds the event in the record."""
    device = Device(devices, "d1")
    async with process(devices) as one:
        await device.connect()
        published = events_module.Events.publish
        stopped = asyncio.Event()

        async def stops(self: Any, *given: Any) -> None:
            stopped.set()
            await asyncio.Event().wait()

        events_module.Events.publish = stops  # type: ignore[assignment]
        try:
            await device.will(delay=1)
            async with asyncio.timeout(10):
                await stopped.wait()
            await one.presence._ends.close()
            await one.presence._lives.close()
        finally:
            events_module.Events.publish = published  # type: ignore[method-assign]
    assert await kinds(devices) == []
    await device.connect()
    async with process(devices):
        await until(devices, ["down.d1", "up.d1"])


async def test_what_a_dead_process_holds_is_taken_in_before_what_comes_after(devices: DevicesWorld) -> None:
    """It is not waited for: else an outage that ended in the meantime would be lost."""
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect(session=1)
        await until_state(devices, "d1", "online")
        await eventually(lambda: acknowledged(devices), within_s=10)
    await device.will(session=1, delay=1)
    await asyncio.sleep(1.2)
    await device.connect(session=2)
    dead = await devices.admin.pull_subscribe_bind(contract.LIFE_CONSUMER, contract.MQTT_STREAM)
    assert len(await dead.fetch(2, timeout=5)) == 2
    await device.will(session=2, delay=1)
    async with process(devices):
        await until(devices, ["down.d1", "up.d1", "down.d1"])
        info = await devices.admin.consumer_info(contract.MQTT_STREAM, contract.LIFE_CONSUMER)
        assert info.num_ack_pending == 2


async def test_a_device_with_many_signs_takes_several_rounds(
    devices: DevicesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LIVES", 2)
    device = Device(devices, "d1")
    for session in range(1, 6):
        await device.connect(session)
        last = await device.will(session, delay=600)
    async with process(devices, start=False) as one:
        await one.presence._asker.start()
        records = await one.presence._keeper.bring({"d1": keeper.Call(reading=Reading(last + 1, time.time()))})
        assert (records["d1"].state, records["d1"].session, records["d1"].seq) == ("online", 5, last + 1)
        assert one.presence.stats.conflicts == 0


async def test_a_round_that_meets_another_change_is_made_again(
    devices: DevicesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, write = Device(devices, "d1"), buckets.Bucket.write
    async with process(devices, start=False) as one, process(devices, start=False) as two:
        for each in (one, two):
            await each.presence._asker.start()
        first = await device.connect(session=1)

        async def late(self: Any, *given: Any) -> Any:
            monkeypatch.setattr(buckets.Bucket, "write", write)
            await device.will(session=1, delay=600)
            await two.presence._keeper.bring({"d1": keeper.Call(reading=Reading(first, 1.0))})
            return await write(self, *given)

        monkeypatch.setattr(buckets.Bucket, "write", late)
        records = await one.presence._keeper.bring({"d1": keeper.Call(reading=Reading(first, 1.0))})
        assert (records["d1"].state, one.presence.stats.conflicts) == ("leaving", 1)
