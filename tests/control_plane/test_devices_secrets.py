"""Who could read the JWTs of devices, which alone admit their holders: nobody but the administrator."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from nats.js.errors import NotFoundError

from control_plane.desired import EVERYTHING
from service.contracts import devices as contract
from tests.control_plane.test_permissions import watched
from tests.support.devices.world import DevicesWorld
from tests.support.world import World

USERS = [user.name for user in EVERYTHING.users if not user.devices]
CONNECTIONS = ("$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.SERVER.PING.CONNZ")
"""Both are answered in every account, with its own connections."""
EVENTS = (
    "$SYS.ACCOUNT.{account}.CONNECT",
    "$SYS.ACCOUNT.*.DISCONNECT",
    "$SYS.ACCOUNT.>",
    "$SYS.>",
    "$JS.EVENT.>",
    ">",
    "*.>",
)


async def test_the_server_tells_the_administrator_each_devices_jwt(devices: DevicesWorld) -> None:
    """Which is why no other user may ask."""
    device = await devices.connect("d1")
    async with devices.world.client("administrator") as client:
        for subject in CONNECTIONS:
            reply = await client.request(subject, json.dumps({"auth": True}).encode(), timeout=5)
            connections = json.loads(reply.data)["data"]["connections"]
            assert [each["jwt"].count(".") for each in connections if each.get("mqtt_client") == "d1"] == [2]
    await device.disconnect()


@pytest.mark.parametrize("user", USERS)
async def test_no_user_may_ask_for_them_or_hear_of_them(common: World, user: str) -> None:
    account = common.account.public
    async with watched(common, user) as watching:
        for subject in (*CONNECTIONS, f"$SYS.REQ.ACCOUNT.{account}.CONNZ"):
            assert not await watching.may_publish(subject), subject
    for subject in EVENTS:
        async with watched(common, user) as watching:
            assert not await watching.may_subscribe(subject.format(account=account)), subject


async def test_what_the_server_keeps_of_devices_has_no_jwt(devices: DevicesWorld) -> None:
    """The viewer may read every stream."""
    device = await devices.connect("d1", clean=False, will=b"will")
    await device.subscribe("pulse", qos=1)
    device.send("data/d1/t", b"reading", retain=True)
    await device.publish("connect/d1", b"?")
    read = 0
    async with devices.world.client("viewer") as viewer:
        jetstream = viewer.jetstream(timeout=3)
        for name in ("$MQTT_sess", "$MQTT_msgs", "$MQTT_rmsgs"):
            for sequence in range(1, (await jetstream.stream_info(name)).state.last_seq + 1):
                with suppress(NotFoundError):  # overwritten
                    message = await jetstream.get_msg(name, sequence)
                    assert b"eyJ" not in (message.data or b"") + json.dumps(message.headers).encode()
                    read += 1
    assert read >= 3
    await device.disconnect()


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.CONSUMER.CREATE.$MQTT_msgs",
        "$JS.API.CONSUMER.CREATE.$MQTT_msgs.own",
        "$JS.API.CONSUMER.CREATE.$MQTT_msgs.own.$MQTT.msgs.data.d1.t",
        "$JS.API.CONSUMER.DELETE.$MQTT_msgs.abc_session",
        "$JS.API.CONSUMER.MSG.NEXT.$MQTT_msgs.abc_session",
        "$JS.ACK.$MQTT_msgs.abc_session.1.1.1.1.0",
        "$JS.ACK.domain.hash.$MQTT_msgs.devices-data.1.1.1.1.0.token",
        "data.d1.t",
        "connect.d1",
        "lwt.d1",
        "pulse",
        "$MQTT.msgs.data.d1.t",
        "$KV.devices.d1",
        "$KV.device-register.d1",
        "devices.event.down.d1",
    ],
)
async def test_the_viewer_holds_back_no_reading(common: World, subject: str) -> None:
    """A consumer that nobody reads would keep every message until the stream is full, and devices are refused."""
    async with watched(common, "viewer") as viewer:
        assert not await viewer.may_publish(subject)


async def test_the_viewer_sees_what_waits(common: World) -> None:
    async with watched(common, "viewer") as viewer:
        jetstream = viewer.client.jetstream(timeout=3)
        for stream, name in contract.CONSUMERS:
            assert (await jetstream.consumer_info(stream, name)).num_pending == 0
        assert (await jetstream.stream_info(contract.MQTT_STREAM)).state.messages == 0
        assert viewer.violations == []


@pytest.mark.parametrize("subject", [contract.GET_SUBJECT, contract.LIST_SUBJECT])
async def test_a_client_may_ask_about_devices(common: World, subject: str) -> None:
    async with watched(common, "client") as client:
        assert await client.may_publish(subject)
    async with watched(common, "gateway") as gateway:
        assert not await gateway.may_publish(subject)


@pytest.mark.parametrize(
    "subject",
    [
        "data.d1.t",
        "connect.d1",
        "lwt.d1",
        "$MQTT.msgs.data.d1.t",
        "$KV.device-register.d1",
        "$KV.config.seed",
        "customer.balance",
        "$JS.API.CONSUMER.CREATE.$MQTT_msgs.own",
        "$JS.API.STREAM.PURGE.$MQTT_msgs",
        "$JS.API.STREAM.MSG.GET.$MQTT_sess",
        "$SYS.REQ.CLAIMS.UPDATE",
    ],
)
async def test_the_role_may_do_no_more_than_its_work(common: World, subject: str) -> None:
    async with watched(common, contract.USER) as role:
        assert not await role.may_publish(subject)
