"""Presence on a real nats-server: races, processes that end between two steps, a server that is lost."""

from __future__ import annotations

import asyncio

import pytest

from service.contracts import devices as contract
from service.devices.msg_pb2 import LWT, Connect
from service.requests.errors import Unavailable
from service.runtime.errors import ServiceError
from tests.support.devices.presence import (
    Device,
    acknowledged,
    connection,
    kinds,
    other_outage,
    process,
    until,
    until_state,
)
from tests.support.devices.world import DevicesWorld
from tests.support.world import eventually


async def test_a_real_device_connects_dies_and_comes_back(devices: DevicesWorld) -> None:
    async with process(devices) as one:
        will = LWT(device="d1", delay=1).SerializeToString()
        mqtt = await devices.connect("d1", will=will)
        await mqtt.publish("connect/d1", Connect(device="d1").SerializeToString())
        await until_state(devices, "d1", "online")
        mqtt.abort()
        await until(devices, ["down.d1"])
        assert await devices.state("d1") == "offline"
        mqtt = await devices.connect("d1", will=will)
        await mqtt.publish("connect/d1", Connect(device="d1").SerializeToString())
        await until(devices, ["down.d1", "up.d1"])
        await mqtt.disconnect()
        record = await one.presence.get("d1")
        assert record
        assert record.state == "online"
        assert (one.presence.stats.connects, one.presence.stats.wills) == (2, 1)
        assert (one.presence.stats.downs, one.presence.stats.ups) == (1, 1)


async def test_an_event_says_why_and_since_when(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect()
        seq = await device.will(delay=1)
        await until(devices, ["down.d1"])
        ((_, body),) = await devices.events()
        record = await devices.record("d1")
        assert body == {"device": "d1", "reason": "will", "since": record and record["since"], "seq": seq}


async def test_a_device_that_is_back_in_time_has_no_outage(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect()
        await device.will(delay=2)
        await until_state(devices, "d1", "leaving")
        await device.connect()
        await until_state(devices, "d1", "online")
        await other_outage(devices, "d2", delay=3)
        assert await kinds(devices) == ["down.d2"]


async def test_the_will_of_a_replaced_connection_is_late(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices) as one:
        await device.connect(session=1)
        await device.connect(session=2)
        await device.will(session=1)
        await other_outage(devices, "d2")
        assert await kinds(devices) == ["down.d2"]
        assert one.presence.stats.late == 1


async def test_a_reading_takes_a_will_back(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices) as one, process(devices) as two:
        await device.connect()
        await device.reading(one, two)
        await until_state(devices, "d1", "online")
        await device.will(delay=3)
        await until_state(devices, "d1", "leaving")
        await device.reading(two)
        await until_state(devices, "d1", "online")
        await other_outage(devices, "d2", delay=4)
        assert await kinds(devices) == ["down.d2"]


async def test_a_reading_from_before_the_will_does_not(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices) as one:
        await device.connect()
        seq = await device.reading(one)
        await device.will(delay=1)
        await until_state(devices, "d1", "leaving")
        one.presence.seen("d1", seq)
        await until(devices, ["down.d1"])
        one.presence.seen("d1", seq)
        await other_outage(devices, "d2")
        assert await devices.state("d1") == "offline"


async def test_a_reading_that_this_process_saw_before_it_heard_of_the_will_takes_it_back(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices) as reader, process(devices, start=False) as other:
        await reader.presence._lives.drain()  # only the other process reads wills
        await device.connect()
        await device.will(delay=3)
        await device.reading(reader)
        await until_state(devices, "d1", "online")  # its own look took both in, in order
        await other.start()
        await other_outage(devices, "d2", delay=4)
        assert await kinds(devices) == ["down.d2"]


async def test_two_processes_tell_each_outage_once(devices: DevicesWorld) -> None:
    names = [f"d{number}" for number in range(20)]
    async with process(devices), process(devices):
        await asyncio.gather(*(Device(devices, name).connect(session=1) for name in names))
        await asyncio.gather(*(Device(devices, name).will(session=1) for name in names))

        async def all_down() -> bool:
            return len(await kinds(devices)) >= len(names)

        await eventually(all_down, within_s=20)
        await asyncio.gather(*(Device(devices, name).connect(session=2) for name in names))

        async def all_up() -> bool:
            return len(await kinds(devices)) >= 2 * len(names)

        await eventually(all_up, within_s=20)
        await other_outage(devices, "other")
    told = await kinds(devices)
    assert sorted(told) == sorted(
        [*(f"down.{name}" for name in names), *(f"up.{name}" for name in names), "down.other"]
    )


async def test_what_is_neither_connect_nor_will_is_a_dead_letter(devices: DevicesWorld) -> None:
    one = Device(devices, "d1")
    hostile = {
        "connect.d1": b"\xff\xff\xff",
        "connect.d2": Connect(device="d1").SerializeToString(),
        "lwt.d1": b"",
        "lwt.d1.more": LWT(device="d1").SerializeToString(),
        "connect.a//b": Connect(device="a.b").SerializeToString(),
    }
    async with process(devices) as running:
        for subject, payload in hostile.items():
            await one.store(subject, payload)
        await one.store("lwt.d3", LWT(device="d3", delay=2**62, session=-5).SerializeToString())
        await one.store("connect.d4", Connect(device="d4", silence=2**62, session=2**62).SerializeToString())
        await eventually(lambda: running.presence.stats.dead == len(hostile), within_s=20)
        await until_state(devices, "d3", "leaving")
        await until_state(devices, "d4", "online")
        await eventually(lambda: acknowledged(devices), within_s=10)
        assert await devices.state("d1") == ""


async def test_a_deleted_record_is_made_again(devices: DevicesWorld) -> None:
    device = Device(devices, "d1")
    async with process(devices):
        await device.connect()
        await until_state(devices, "d1", "online")
        await devices.admin.publish(f"{contract.KEY_PREFIX}d1", b"", headers={"KV-Operation": "DEL"})
        await device.will(delay=600)
        await until_state(devices, "d1", "leaving")
        await devices.admin.publish(f"{contract.KEY_PREFIX}d1", b"[]")
        await device.connect()

        async def is_online() -> bool:
            return isinstance(record := await devices.record("d1"), dict) and record["state"] == "online"

        await eventually(is_online, within_s=20)


async def test_devices_are_listed_in_order_by_state_and_by_the_page(devices: DevicesWorld) -> None:
    names = [f"d{number:04}" for number in range(30)]
    async with process(devices) as one:
        await asyncio.gather(*(Device(devices, name).connect() for name in names))
        await asyncio.gather(*(Device(devices, name).will(delay=600) for name in names[::3]))
        await until_state(devices, names[-3], "leaving")
        await until_state(devices, names[-1], "online")
        await eventually(lambda: acknowledged(devices), within_s=10)
        presence = one.presence
        assert [record.device for record in await presence.list("", "", 100)] == names
        assert [record.device for record in await presence.list("", names[4], 3)] == names[5:8]
        assert [record.device for record in await presence.list("leaving", "", 100)] == names[::3]
        assert await presence.list("offline", "", 10) == []
        assert await presence.list("", names[-1], 10) == []
        record = await presence.get(names[0])
        assert record
        assert record.state == "leaving"
        assert record.revision > 0
        assert await presence.get("unknown") is None


async def test_without_nats_an_answer_says_so(devices: DevicesWorld) -> None:
    async with connection(devices) as opened:
        from service.devices.letters import letters
        from service.devices.presence.presence import Presence

        presence = Presence(opened, letters(opened, "life"), 0, lambda _: None)
        await presence._asker.start()
    with pytest.raises(Unavailable):
        await presence.get("d1")
    with pytest.raises(Unavailable):
        await presence.list("", "", 1)


async def test_a_bucket_without_timers_is_refused(devices: DevicesWorld) -> None:
    config = (await devices.admin.stream_info(contract.BUCKET_STREAM)).config
    await devices.admin.delete_stream(contract.BUCKET_STREAM)
    await devices.admin.add_stream(name=config.name, subjects=config.subjects, max_msgs_per_subject=1)
    async with process(devices, start=False) as one:
        needs = {need.name: need for need in one.presence.needs()}
        with pytest.raises(ServiceError, match="takes no atomic batches"):
            await needs[f"KV bucket {contract.BUCKET}"].look()
