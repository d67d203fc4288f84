"""The role on real servers: each reading that a device was acknowledged is one row, whatever happens to the role."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import time
from pathlib import Path

from aiohttp import web

from benchmark.load.mqtt import Mqtt
from service.contracts import devices as contract
from service.devices.msg_pb2 import SensorData
from service.devices.reading import entry_id
from service.writing.letters import CUT_BYTES
from tests.support.devices.load import FIRST_S, reading, sending
from tests.support.devices.world import DevicesWorld, make_devices
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal
from tests.support.own_servers import own_server
from tests.support.world import World, eventually, metric

NAMES = [f"d{number}" for number in range(5)]


def writes(call: Call) -> bool:
    return "RequestItems" in call


async def written(devices: DevicesWorld, within_s: float = 20) -> None:
    await eventually(devices.is_written, within_s=within_s, what="an empty backlog")


async def test_a_reading_is_a_row(devices: DevicesWorld) -> None:
    epoch = int(time.time())
    async with devices.task(FACILITY="7", RETENTION_DAYS="1"):
        device = await devices.connect("d_1-A")
        await device.publish("data/d_1-A/room.1/north", reading("d_1-A", epoch, temp=21.3, rh=55.25))
        await written(devices)
        await device.disconnect()
    (row,) = devices.rows()
    received_ms = int(row.pop("received_ms")["N"])  # type: ignore[attr-defined]
    key, expires = row["reading"]["S"], received_ms // 1000 + 86_400
    assert abs(received_ms / 1000 - epoch) < 60
    assert row == {
        "device": {"S": "d_1-A"},
        "reading": {"S": f"{epoch:012d}#{key[13:]}"},
        "epoch": {"N": str(epoch)},
        "temp": {"N": "21.3"},
        "rh": {"N": "55.25"},
        "sensor": {"S": "room.1/north"},
        "facility": {"S": "7"},
        "entry_id": {"N": str(entry_id(key))},
        "expires_at": {"N": str(expires)},
    }


async def test_readings_of_one_second_stay_apart_and_one_that_is_sent_again_does_not(devices: DevicesWorld) -> None:
    first = await devices.connect("d1")
    for temp in (1.0, 2.0):
        first.send("data/d1/room", reading("d1", FIRST_S, temp=temp))
    again = dict(first.unacknowledged)
    await eventually(lambda: not first.unacknowledged, what="PUBACKs")
    first.abort()
    second = await devices.connect("d1", unacknowledged=again)
    await eventually(lambda: not second.unacknowledged, what="PUBACKs")
    await second.disconnect()
    assert await devices.backlog() == 4, "the server keeps what is sent again"
    async with devices.task():
        await written(devices)
    assert sorted(float(row["temp"]["N"]) for row in devices.rows()) == [1.0, 2.0]


async def test_what_a_killed_process_had_written_is_written_again_as_the_same_rows(
    devices: DevicesWorld, proxy: FaultyDynamoDB
) -> None:
    devices.env = proxy.env
    await devices.shorten_ack_wait()
    async with sending(devices, NAMES) as sent:
        await eventually(lambda: sent.total >= 200, what="readings")
    engine = devices.engine()
    done = asyncio.Event()

    async def after_writing(_: str, call: Call) -> web.Response | None:
        """The rows are written; the process never hears of it."""
        if writes(call):
            await asyncio.to_thread(engine.batch_write_item, RequestItems=call["RequestItems"])
            done.set()
            await asyncio.sleep(60)
        return None

    proxy.fault = after_writing
    async with devices.task() as task:
        await asyncio.wait_for(done.wait(), 20)
        task.child.signal(signal.SIGKILL)
        await task.child.wait()
    assert devices.rows()
    proxy.fault = None
    async with devices.task(), devices.task():
        await written(devices)
    assert devices.readings() == sorted(sent.readings())


async def test_two_processes_that_hold_the_same_readings_write_the_same_rows(
    devices: DevicesWorld, proxy: FaultyDynamoDB
) -> None:
    devices.env = proxy.env
    await devices.shorten_ack_wait()
    async with sending(devices, NAMES) as sent:
        await eventually(lambda: sent.total >= 100, what="readings")
    release = asyncio.Event()

    async def hold(_: str, call: Call) -> None:
        if writes(call):
            await release.wait()

    proxy.fault = hold
    async with devices.task() as first:

        async def holds_all() -> bool:
            return await metric(first, "devices_held") == sent.total

        await eventually(holds_all, what="all readings at one process")
        first.child.signal(signal.SIGSTOP)
        try:
            proxy.fault = None
            async with devices.task():
                await written(devices)
        finally:
            first.child.signal(signal.SIGCONT)
        release.set()

        async def wrote() -> bool:
            return await metric(first, "devices_readings_total") >= sent.total

        await eventually(wrote, what="the rows of the process that was stopped")
    assert devices.readings() == sorted(sent.readings())


async def test_a_process_killed_under_load_loses_and_doubles_nothing(devices: DevicesWorld) -> None:
    await devices.shorten_ack_wait()
    async with sending(devices, NAMES) as sent:
        for _ in range(2):
            async with devices.task() as task:
                rows = sent.total
                await eventually(lambda: sent.total > rows + 50, what="readings")  # noqa: B023
                task.child.signal(signal.SIGKILL)
                await task.child.wait()
    async with devices.task():
        await written(devices)
    assert devices.readings() == sorted(sent.readings())


async def test_a_broker_that_is_killed_loses_nothing_that_it_acknowledged(world: World, tmp_path: Path) -> None:
    async with (
        own_server(world, tmp_path / "nats") as (own, server),
        make_devices(own) as devices,
        devices.task() as task,
    ):
        async with sending(devices, NAMES) as sent:
            await eventually(lambda: sent.total > 100, what="readings")
            await server.kill()
            await asyncio.sleep(0.5)
            await server.start()
            rows = sent.total
            await eventually(lambda: sent.total > rows + 50, within_s=20, what="readings after the restart")
        async with own.administrator() as devices.admin:
            await written(devices, within_s=60)  # what was on its way comes again after `ack_wait`
        assert task.child.process.returncode is None
    assert sent.connects > len(NAMES)
    assert devices.readings() == sorted(sent.readings())


async def test_a_table_that_throttles_delays_and_loses_nothing(devices: DevicesWorld, proxy: FaultyDynamoDB) -> None:
    devices.env = proxy.env
    count = 0

    async def fault(_: str, call: Call) -> web.Response | None:
        nonlocal count
        count += writes(call)
        return refusal("ThrottlingException") if writes(call) and count % 3 else None

    proxy.fault = fault
    async with devices.task() as task:
        async with sending(devices, NAMES) as sent:
            await eventually(lambda: sent.total > 200, what="readings")
        await written(devices)
        assert await metric(task, "devices_write_errors_total") > 0
    assert devices.readings() == sorted(sent.readings())


async def test_what_is_no_reading_is_a_dead_letter_and_holds_nothing_up(devices: DevicesWorld) -> None:
    forged, large = reading("d2", FIRST_S), b"x" * 10_000
    async with devices.task() as task:
        device = await devices.connect("d1")
        for payload in (forged, large, b"", SensorData(device="d1", temp=float("nan")).SerializeToString()):
            await device.publish("data/d1/a.b", payload)
        await device.publish("data/d1/", reading("d1", FIRST_S))
        await device.publish("data/d1/a.b", reading("d1", FIRST_S))
        await written(devices)
        assert await metric(task, "devices_dead_letters_total") == 5
        await device.disconnect()
    assert devices.readings() == [("d1", FIRST_S)]
    letters = await devices.letters()
    assert {letter.subject for letter in letters} == {f"{contract.DEAD_SUBJECT}.data"}
    by_reason = {(letter.headers or {})["Devices-Reason"]: letter for letter in letters}
    assert by_reason.keys() == {
        "payload is of device 'd2', and the topic's is d1",
        "a payload of 10000 bytes, more than 4096",
        "payload names no device, and the topic's is d1",
        "temp nan and rh 0.0 are not both numbers",
        "topic 'data/d1/' is not data/DEVICE/SENSOR",
    }
    letter = by_reason["payload is of device 'd2', and the topic's is d1"]
    assert letter.data == forged
    assert (letter.headers or {})["Devices-Topic"] == "data/d1/a.b"
    cut = by_reason["a payload of 10000 bytes, more than 4096"]
    assert (cut.data, (cut.headers or {})["Devices-Cut"]) == (large[:CUT_BYTES], "10000")


async def test_a_full_dead_letter_stream_keeps_the_message_where_it_is(devices: DevicesWorld) -> None:
    config = (await devices.admin.stream_info(contract.DEAD_STREAM)).config
    await devices.admin.update_stream(dataclasses.replace(config, max_bytes=1024))
    async with devices.task() as task:
        device = await devices.connect("d1")
        await device.publish("data/d1/room", b"x" * 4000)
        await device.publish("data/d1/room", reading("d1", FIRST_S))

        async def refused() -> bool:
            return await metric(task, "devices_dead_letters_refused_total") == 1

        await eventually(refused, what="a refused dead letter")
        await eventually(lambda: devices.readings() == [("d1", FIRST_S)], what="the row behind it")
        await device.disconnect()
    assert await devices.backlog() == 1


async def test_a_reading_of_qos_0_is_no_row(devices: DevicesWorld) -> None:
    async with devices.task():
        device: Mqtt = await devices.connect("d1")
        await device.publish("data/d1/room", reading("d1", FIRST_S), qos=0)
        await device.publish("data/d1/room", reading("d1", FIRST_S + 1))
        await written(devices)
        await device.disconnect()
    assert devices.readings() == [("d1", FIRST_S + 1)]
