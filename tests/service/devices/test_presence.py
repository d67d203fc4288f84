"""Presence on a real nats-server: races, processes that end between two steps, a server that is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from service.contracts import devices as contract
from service.devices.msg_pb2 import LWT, Connect
from service.devices.presence import bucket as buckets
from service.devices.presence import events as events_module
from service.devices.presence import keeper
from service.devices.presence.record import Reading
from service.requests.errors import Unavailable
from service.runtime.errors import ServiceError
from tests.support.devices.presence import Device, acknowledged, connection, process
from tests.support.devices.world import DevicesWorld
from tests.support.world import eventually


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


async def other_outage(devices: DevicesWorld, name: str, delay: int = 1) -> None:
    """Return when the outage of another device is told: what is not by then, is not."""
    await Device(devices, name).will(delay=delay)

    async def told() -> bool:
        return f"down.{name}" in await kinds(devices)

    await eventually(told, within_s=20)


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


async def test_an_outage_that_ended_while_no_process_was_there_is_told(devices: DevicesWorld) -> None:
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
