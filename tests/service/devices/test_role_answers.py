"""What is asked of the role, over NATS and gRPC, and what it tells of devices that go and come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf import empty_pb2
from nats.aio.client import Client

from benchmark.load.mqtt import Mqtt
from control_plane.desired import ADMINISTRATOR
from local.demos.webhook import webhook
from local.process import claim_port
from service.contracts import devices as contract
from service.devices.msg_pb2 import LWT, Connect
from service.devices.query.query_pb2 import Range
from service.devices.query.query_pb2_grpc import QueryStub
from tests.support.devices.load import FIRST_S, reading
from tests.support.devices.world import HOST, DevicesWorld, make_devices
from tests.support.own_servers import own_server
from tests.support.world import World, eventually, get, metric


async def alive(devices: DevicesWorld, name: str, *, session: int = 1, delay: int = 1, silence: int = 0) -> Mqtt:
    will = LWT(device=name, delay=delay, session=session).SerializeToString()
    client = await devices.connect(name, will=will)
    said = Connect(device=name, session=session, silence=silence).SerializeToString()
    await client.publish(f"connect/{name}", said)
    return client


async def ask(client: Client, subject: str, body: Any) -> Any:
    reply = await client.request(subject, orjson.dumps(body), timeout=10)
    if reply.headers and "Nats-Service-Error-Code" in reply.headers:
        return reply.headers["Nats-Service-Error-Code"]
    return orjson.loads(reply.data)


@asynccontextmanager
async def requester(devices: DevicesWorld) -> AsyncIterator[Client]:
    async with devices.world.client(ADMINISTRATOR.name) as client:
        yield client


def is_in(devices: DevicesWorld, name: str, state: str) -> Any:
    async def condition() -> bool:
        return await devices.state(name) == state

    return condition


async def told(devices: DevicesWorld, *subjects: str) -> None:
    """Wait until exactly these events were published, in this order for each device."""

    async def condition() -> bool:
        return len(await devices.events()) >= len(subjects)

    await eventually(condition, within_s=30, what=f"events {subjects}")
    assert sorted(subject for subject, _ in await devices.events()) == sorted(subjects)


async def test_a_device_is_answered_for_over_nats_and_grpc(devices: DevicesWorld) -> None:
    port = claim_port(0, "")
    async with devices.task(DEVICES_LISTEN=f"{HOST}:{port}", FACILITY="7"), requester(devices) as client:
        first, second = await alive(devices, "a1"), await alive(devices, "b2")
        for at in range(3):
            await first.publish("data/a1/room", reading("a1", FIRST_S + at, temp=at))
        await second.publish("data/b2/room", reading("b2", FIRST_S))
        await eventually(lambda: len(devices.rows()) == 4, what="rows")
        for name in ("a1", "b2"):
            await eventually(is_in(devices, name, "online"), what="the record")
        found = await ask(client, contract.GET_SUBJECT, {"device": "a1"})
        assert (found["device"], found["state"]) == ("a1", "online")
        assert abs(found["since"] - time.time()) < 60
        assert (found["last"]["epoch"], found["last"]["temp"], found["last"]["facility"]) == (FIRST_S + 2, 2.0, "7")
        assert await ask(client, contract.GET_SUBJECT, {"device": "nobody"}) == "404"
        assert await ask(client, contract.GET_SUBJECT, {"device": "*"}) == "403"
        page = await ask(client, contract.LIST_SUBJECT, {"state": "online", "limit": 1})
        assert ([each["device"] for each in page["devices"]], page["after"]) == (["a1"], "a1")
        async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
            stub = QueryStub(channel)
            every = [row async for row in stub.GetSensorRows(empty_pb2.Empty())]
            asked = Range(device="a1", to=FIRST_S + 2, newest_first=True)
            own = [row async for row in stub.GetDeviceRows(asked)]
        assert sorted((row.device, row.epoch) for row in every) == devices.readings()
        assert {row.facility_id for row in every} == {7}
        assert len({row.entry_id for row in every}) == 4
        assert [row.epoch for row in own] == [FIRST_S + 1, FIRST_S]
        await first.disconnect()
        await second.disconnect()


async def test_a_device_that_drops_is_reported_once_and_so_is_its_return(devices: DevicesWorld) -> None:
    async with webhook() as hook, devices.task(OUTAGE_WEBHOOK=hook.url, OUTAGE_WINDOW="0"), devices.task():
        client = await alive(devices, "a1")
        await client.publish("data/a1/room", reading("a1", FIRST_S))
        await eventually(is_in(devices, "a1", "online"), what="the record")
        client.abort()
        await told(devices, "down.a1")
        back = await alive(devices, "a1", session=2)
        await told(devices, "down.a1", "up.a1")
        await eventually(lambda: hook.named("up") == ["a1"], within_s=20, what="the posts")
        await back.disconnect()
    (_, down), (_, up) = await devices.events()
    assert down["reason"] == "will"
    assert up["seq"] > down["seq"]
    assert hook.named("down") == ["a1"]


async def test_a_device_that_is_back_in_time_is_not_reported(devices: DevicesWorld) -> None:
    async with devices.task():
        client = await alive(devices, "a1", delay=5)
        await eventually(is_in(devices, "a1", "online"), what="the record")
        client.abort()
        await eventually(is_in(devices, "a1", "leaving"), what="its will")
        back = await devices.connect("a1")
        await back.publish("data/a1/room", reading("a1", FIRST_S))
        await eventually(is_in(devices, "a1", "online"), what="its reading")
        other = await alive(devices, "b2")
        other.abort()
        await told(devices, "down.b2")
        await asyncio.sleep(5)
        await told(devices, "down.b2")
        await back.disconnect()


async def test_readings_from_before_a_will_do_not_take_it_back(devices: DevicesWorld) -> None:
    """The role was away: it reads wills and readings by two consumers, in no order between them."""
    client = await devices.connect("a1", will=LWT(device="a1", delay=1).SerializeToString())
    await client.publish("connect/a1", Connect(device="a1").SerializeToString())
    for at in range(500):
        client.send("data/a1/room", reading("a1", FIRST_S + at))
    await eventually(lambda: not client.unacknowledged, what="PUBACKs")
    client.abort()

    async def willed() -> bool:
        return await devices.backlog(contract.LIFE_CONSUMER) == 2

    await eventually(willed, what="the will in the stream")
    await asyncio.sleep(1.5)
    async with devices.task():
        await eventually(devices.is_written, within_s=20, what="rows")
        await told(devices, "down.a1")
        assert await devices.state("a1") == "offline"
    assert len(devices.rows()) == 500


async def test_a_device_that_hangs_is_found_by_its_silence(devices: DevicesWorld) -> None:
    async with devices.task():
        client = await alive(devices, "a1", silence=1)
        await told(devices, "down.a1")
        assert (await devices.events())[0][1]["reason"] == "silence"
        await client.publish("data/a1/room", reading("a1", FIRST_S))
        await told(devices, "down.a1", "up.a1")
        await client.disconnect()


async def test_a_bucket_that_takes_no_records_is_reported_and_its_connects_are_not_lost(devices: DevicesWorld) -> None:
    async def limit(nc: Client, max_bytes: int) -> int:
        config = orjson.loads((await nc.request(f"$JS.API.STREAM.INFO.{contract.BUCKET_STREAM}")).data)["config"]
        update = orjson.dumps({**config, "max_bytes": max_bytes})
        answer = orjson.loads((await nc.request(f"$JS.API.STREAM.UPDATE.{contract.BUCKET_STREAM}", update)).data)
        assert "error" not in answer
        return int(config["max_bytes"])

    async with devices.task() as task, requester(devices) as client:
        before = await limit(client, 1)
        device = await alive(devices, "a1")

        async def told() -> bool:
            status, body = await get(f"{task.health_url}/readyz")
            return status == 503 and "the bucket refuses records" in orjson.loads(body)["problems"].get("presence", "")

        await eventually(told, within_s=20, what="the problem on the health page")
        assert await metric(task, "devices_reading_age_seconds") > 0
        await limit(client, before)
        await eventually(is_in(devices, "a1", "online"), within_s=20, what="the record")
        await device.disconnect()


async def test_a_pulse_is_sent_by_one_process_at_a_time(devices: DevicesWorld) -> None:
    heard = list[float]()
    async with devices.task(PULSE="1"), devices.task(PULSE="1"):
        client = await devices.connect("a1", on_message=lambda *_: heard.append(time.monotonic()))
        await client.subscribe("pulse")
        await eventually(lambda: len(heard) >= 4, within_s=20, what="pulses")
        await client.disconnect()
    assert heard[3] - heard[0] > 2.0, "two processes would send them twice as often"


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_requests_and_presence_go_on_after_a_broker_that_ended(world: World, tmp_path: Path, how: str) -> None:
    async with own_server(world, tmp_path / "nats") as (own, server), make_devices(own) as devices, devices.task():
        first = await alive(devices, "a1", delay=60)
        await eventually(is_in(devices, "a1", "online"), what="the record")
        await (server.kill() if how == "killed" else server.stop())
        await server.start()
        async with own.administrator() as devices.admin, requester(devices) as client:
            second = await alive(devices, "b2")
            await eventually(is_in(devices, "b2", "online"), within_s=40, what="a connect after the restart")
            await second.publish("data/b2/room", reading("b2", FIRST_S))
            await eventually(lambda: devices.readings() == [("b2", FIRST_S)], within_s=40, what="the row")
            found = await ask(client, contract.GET_SUBJECT, {"device": "b2"})
            assert (found["state"], found["last"]["epoch"]) == ("online", FIRST_S)
            second.abort()
            await told(devices, "down.b2")
        first.abort()
