"""What `create --with devices` makes on the real nats-server, and that it is as nats-server itself would have it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from benchmark.load.mqtt import Mqtt
from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import EVERYTHING
from control_plane.parts import DEVICE, DEVICES, REGISTER
from control_plane.self_hosted import jetstream
from control_plane.self_hosted import provider as self_hosted
from service.contracts import devices as contract
from tests.control_plane.conftest import OwnProgram, Program
from tests.support.own_servers import own_server
from tests.support.world import Servers, World, eventually

STREAMS = {stream.name: stream for stream in DEVICES.streams}
BOUNDS = {"max_bytes", "discard"}


async def config(client: Client, stream: str) -> dict[str, Any]:
    """Return a stream's settings as the server sends them, without what it notes about itself."""
    reply = json.loads((await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)).data)
    return {name: value for name, value in reply["config"].items() if name != "metadata"}


async def changed(client: Client, stream: str, **settings: Any) -> None:
    body = {**await config(client, stream), **settings}
    reply = json.loads((await client.request(f"$JS.API.STREAM.UPDATE.{stream}", json.dumps(body).encode())).data)
    assert "error" not in reply, reply


async def drift(own: OwnProgram) -> dict[str, dict[str, Any]]:
    _, output, _ = await own("status", "--json")
    return {
        entry["resource"]: {each["field"]: each["actual"] for each in entry["differences"]}
        for entry in json.loads(output)["resources"]
        if entry["state"] != "as wanted"
    }


async def test_everything_is_there_before_the_first_device(own: OwnProgram) -> None:
    assert "nothing to do" in await own.done("create")
    assert await drift(own) == {}
    async with own.administrator() as client:
        for stream, name in contract.CONSUMERS:
            assert (await client.jetstream().consumer_info(stream, name)).config.durable_name == name
        life = await client.jetstream().consumer_info(contract.MQTT_STREAM, contract.LIFE_CONSUMER)
        assert life.config.filter_subjects == list(contract.LIFE_FILTERS)
        bucket = await config(client, contract.BUCKET_STREAM)
        assert (bucket["allow_msg_ttl"], bucket["allow_atomic"]) == (True, True)
        assert bucket["subject_delete_marker_ttl"] == 86_400 * 10**9
        messages = await config(client, contract.MQTT_STREAM)
        assert (messages["max_bytes"], messages["discard"], messages["retention"]) == (
            1000 * 1024**2,
            "new",
            "interest",
        )
        assert (await config(client, contract.MQTT_RETAINED_STREAM))["max_bytes"] == 16 * 1024**2
    async with own.provider() as (provider, account):
        limits = (await provider.actual(account)).limits
        assert (limits["conn"], limits["streams"], limits["consumer"]) == (1_100, 16, 2_100)


async def test_no_device_is_let_in_before_its_readings_have_a_reader(servers: Servers, tmp_path: Path) -> None:
    """What is published without a consumer is acknowledged, and gone."""
    output = await OwnProgram(servers, tmp_path).done("create", "--with", "devices", "--dry-run")
    planned = [line.removeprefix("would create  ") for line in output.splitlines()]
    made = [f"consumer {name} of {stream}" for stream, name in contract.CONSUMERS]
    assert max(map(planned.index, made)) < planned.index("user device")


async def test_the_servers_streams_are_made_as_the_server_makes_them(servers: Servers) -> None:
    """A device that connects first, and an account that nobody provisioned."""
    account, signer = Key.account(), Key.account()
    token = claims.account_jwt(
        "bare", account.public, servers.operator, limits=EVERYTHING.limits,
        signing_keys=[claims.scope(signer.public, DEVICE, 0)],
    )  # fmt: skip
    async with self_hosted.connected(servers.nats_url, servers.system_creds) as system:
        await self_hosted.push_account(system, token)
        jwt = claims.scoped_user_jwt("d", Key.user().public, signer, account=account.public)
        device = await Mqtt.connect("127.0.0.1", servers.mqtt_ports[0], "d", user="d", password=jwt)
        creds = self_hosted.administrator_creds(account, account.public)
        async with self_hosted.connected(servers.nats_url, creds) as client:
            names = {contract.MQTT_STREAM, contract.MQTT_RETAINED_STREAM}
            theirs = {name: await config(client, name) for name in names}
            for name in names:
                await client.jetstream().delete_stream(name)
                await jetstream.put_stream(client.jetstream(), replace(STREAMS[name], replicas=1))
            ours = {name: await config(client, name) for name in names}
        await device.disconnect()
        await self_hosted.delete_account(system, account.public, servers.operator)
    for name in names:
        different = {key for key in {*ours[name], *theirs[name]} if ours[name].get(key) != theirs[name].get(key)}
        assert different <= BOUNDS, (ours[name], theirs[name])


async def test_devices_come_and_nothing_drifts(own: OwnProgram) -> None:
    device = await own.connect("d1", await own.add("d1"), clean=False)
    await device.subscribe("pulse", qos=1)
    await device.publish("data/d1/t", b"reading")
    assert await drift(own) == {}
    _, output, _ = await own("status")
    assert "not declared" not in output, "the server's own streams and the sessions' consumers are no news"
    async with own.administrator() as client:
        assert {f"$MQTT_{name}" for name in ("sess", "msgs", "rmsgs", "out", "qos2in")} <= set(
            await jetstream.streams(client)
        )
        waiting = await client.jetstream().consumer_info(contract.MQTT_STREAM, contract.DATA_CONSUMER)
        assert waiting.num_pending == 1, "a first reading is kept"
    await device.disconnect()


async def test_bounds_that_are_gone_are_seen_and_what_is_the_servers_stays(own: OwnProgram) -> None:
    async with own.administrator() as client:
        for stream in (contract.MQTT_STREAM, contract.MQTT_RETAINED_STREAM):
            await changed(client, stream, max_bytes=-1, discard="old", max_age=86_400 * 10**9)
        assert await drift(own) == {
            "stream $MQTT_msgs": {"max_bytes": -1, "discard": "old"},
            "stream $MQTT_rmsgs": {"max_bytes": -1},
        }
        await own.done("create")
        assert await drift(own) == {}
        for stream in (contract.MQTT_STREAM, contract.MQTT_RETAINED_STREAM):
            assert (await config(client, stream))["max_age"] == 86_400 * 10**9


async def test_a_full_stream_refuses_and_loses_nothing_that_was_acknowledged(own: OwnProgram) -> None:
    jwt = await own.add("d1")
    async with own.administrator() as client:
        await changed(client, contract.MQTT_STREAM, max_bytes=10_000)
        device = await own.connect("d1", jwt)
        with suppress(ConnectionError):
            for number in range(1_000):
                await device.publish("data/d1/t", b"%d" % number)
        state = (await client.jetstream().stream_info(contract.MQTT_STREAM)).state
        assert 0 < device.acknowledged == state.messages < 1_000


async def test_the_bounds_hold_over_a_restart(world: World, tmp_path: Path) -> None:
    async with own_server(world, tmp_path / "own") as (there, server):
        own = OwnProgram(there.servers, tmp_path)
        await own.done("create", "--with", "devices")
        jwt = await own.add("d1")
        await (await own.connect("d1", jwt)).disconnect()
        await server.kill()
        await server.start()

        async def connected() -> bool:
            try:
                device = await own.connect("d1", jwt)
            except (ConnectionError, TimeoutError):
                return False
            await device.publish("data/d1/t", b"reading")
            await device.disconnect()
            return True

        await eventually(connected, what="a device after the restart")
        assert await drift(own) == {}


async def test_as_many_devices_as_a_deployment_says(own: OwnProgram) -> None:
    """The number stays until another is asked for: with fewer, the others would be disconnected."""

    async def there() -> tuple[int, int, int]:
        async with own.provider() as (provider, account):
            actual = await provider.actual(account)
        size = actual.streams[contract.MQTT_STREAM]["max_bytes"] // 1024**2
        return actual.limits["conn"], actual.limits["consumer"], size

    await own.done("create", "--devices", "5000")
    assert await there() == (5_100, 10_100, 5_000)
    for command in ("create", "status"):
        await own.done(command)
    assert (await own("status", "--devices", "2000"))[0] == 3
    async with own.provider() as (provider, account):
        await provider.put_limits(account, replace(EVERYTHING.limits, connections=7))
    await own.done("create")
    assert await there() == (5_100, 10_100, 5_000), "the stream tells it too"
    for number in (2_000, 10):
        await own.done("create", "--devices", str(number))
        assert await drift(own) == {}
        assert await there() == (100 + number, 100 + 2 * number, number)
    assert (await own("create", "--devices", "0"))[0] == 2


async def test_how_many_devices_is_a_question_of_the_part(program: Program) -> None:
    code, _, error = await program("create", "--devices", "5")
    assert (code, "give --with devices too" in error) == (2, True)


async def test_synadia_cloud_takes_no_devices(program: Program) -> None:
    for command in (("create", "--with", "devices"), ("status", "--with", "devices"), ("device", "add", "d1")):
        code, output, error = await program(*command)
        assert (code, output) == (2, "")
        assert error == (
            "error: devices need your own nats-server (--server): Synadia Cloud documents no MQTT endpoint\n"
        )
    assert [account.name for account in program.fake.accounts.values()] == ["SYS"]


async def test_a_deleted_account_leaves_no_stream_of_the_servers(servers: Servers, tmp_path: Path) -> None:
    own = OwnProgram(servers, tmp_path)
    await own.done("create", "--with", "devices")
    device = await own.connect("d1", await own.add("d1"))
    output = await own.done("delete", "--yes")
    assert "removed  stream $MQTT_msgs" in output
    assert "removed  bucket device-register" in output
    with pytest.raises(ConnectionError):
        await device.publish("data/d1/t", b"?")


def test_the_register_is_no_role_s() -> None:
    named = [subject for user in EVERYTHING.users for subject in user.publish if REGISTER.name in subject]
    assert named == []
