"""`device list` and `device revoke`, and the rotation of the devices' signing key, with devices that are connected."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.load.mqtt import Mqtt, Refused, Will
from control_plane.errors import ProvisioningError
from service.contracts import devices as contract
from tests.control_plane.conftest import OwnProgram
from tests.support.world import eventually


async def thrown_out(device: Mqtt) -> None:
    async with asyncio.timeout(10):
        await device.closed


async def states(own: OwnProgram, **options: Any) -> dict[str, str]:
    told = json.loads(await own.done("device", "list", "--json", **options))
    return {device["name"]: device["state"] for device in told}


async def record(own: OwnProgram, name: str, state: str) -> None:
    """Write what the role would."""
    async with own.administrator() as client:
        body = json.dumps({"state": state, "since": 1_700_000_000.5, "session": 1, "silence": 0, "seq": 7})
        await client.jetstream().publish(f"{contract.KEY_PREFIX}{name}", body.encode())
        await client.jetstream().publish(f"{contract.KEY_PREFIX}{name}{contract.DUE}", b"1")


async def test_a_revoked_device_is_out_at_once_and_for_good(own: OwnProgram) -> None:
    jwt, other = await own.add("d1"), await own.add("d2")
    again = await own.add("d1")
    devices = [await own.connect("d1", jwt, will=Will("lwt/d1", b"")), await own.connect("d2", other)]
    assert await own.done("device", "revoke", "d1") == "revoked  d1\n"
    await thrown_out(devices[0])
    await devices[1].publish("data/d2/t", b"still here")
    for void in (jwt, again):
        with pytest.raises(Refused):
            await own.connect("d1", void)
    async with own.administrator() as client:
        life = await client.jetstream().consumer_info(contract.MQTT_STREAM, contract.LIFE_CONSUMER)
    assert life.num_pending == 1, "the server publishes its will: the role reports it"
    assert await own.done("device", "revoke", "d1") == "nothing to do: d1 is revoked\n"
    await own.done("create")
    await own.done("rotate", "--user", "client")
    with pytest.raises(Refused):
        await own.connect("d1", jwt)
    assert await states(own) == {"d1": "revoked", "d2": "never seen"}
    await devices[1].disconnect()


async def test_a_revoked_device_may_be_added_again(own: OwnProgram) -> None:
    former = []
    for _ in range(3):
        jwt = await own.add("d1")
        assert await states(own) == {"d1": "never seen"}
        device = await own.connect("d1", jwt)
        former.append(jwt)
        await own.done("device", "revoke", "d1")
        await thrown_out(device)
    for jwt in former:
        with pytest.raises(Refused):
            await own.connect("d1", jwt)
    await (await own.connect("d1", await own.add("d1"))).disconnect()


async def test_many_are_revoked_or_none(own: OwnProgram, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    await own.done("device", "add", "--file", str(names))
    code, _, error = await own("device", "revoke", "a", "typo")
    assert code == 2
    assert error == (
        "error: there is no device typo; see `device list`; if the register lost it, add it again and then revoke it: "
        "that voids every JWT it has; nothing was revoked\n"
    )
    await own.done("device", "revoke", "b")
    assert await states(own) == {"a": "never seen", "b": "revoked", "c": "never seen"}
    assert (
        await own.done("device", "revoke", "--file", str(names)) == "revoked  2 of 3; the others were revoked before\n"
    )
    assert set((await states(own)).values()) == {"revoked"}


@pytest.mark.parametrize("seen", [True, False])
async def test_a_device_is_revoked_whose_entry_is_lost(own: OwnProgram, seen: bool) -> None:
    """Its newest JWT is not its first one. A device that nobody has seen is added once more, and then revoked."""
    await own.add("d1")
    await own.done("device", "revoke", "d1")
    jwt = await own.add("d1")
    if seen:
        await record(own, "d1", "online")
    async with own.administrator() as client:
        await client.jetstream().purge_stream("KV_device-register")
    assert await states(own) == ({"d1": "online"} if seen else {})
    if not seen:
        await own.add("d1")
    device = await own.connect("d1", jwt)
    assert await own.done("device", "revoke", "d1") == "revoked  d1\n"
    await thrown_out(device)
    with pytest.raises(Refused):
        await own.connect("d1", jwt)
    assert await states(own) == {"d1": "revoked"}
    assert await own.done("device", "revoke", "d1") == "nothing to do: d1 is revoked\n"
    await (await own.connect("d1", await own.add("d1"))).disconnect()
    assert (await states(own))["d1"] != "revoked"


async def test_all_jwts_are_void_where_an_earlier_revocation_is_lost(own: OwnProgram) -> None:
    """Another program sent the server an older JWT of the account."""
    first = await own.add("d1")
    await own.done("device", "revoke", "d1")
    second = await own.add("d1")
    async with own.provider() as (provider, account):
        await provider.change(account, lambda body: body.pop("revocations"))
    await own.done("device", "revoke", "d1")
    for void in (first, second):
        with pytest.raises(Refused):
            await own.connect("d1", void)
    assert await states(own) == {"d1": "revoked"}


async def test_an_account_with_more_revocations_than_fit_says_so(own: OwnProgram) -> None:
    async with own.provider() as (provider, account):
        with pytest.raises(ProvisioningError, match=r"has 1,\d{3},\d{3} bytes; raise the server's max_payload"):
            await provider.revoke(account, *(f"U{number:055}" for number in range(14_000)))
        assert not (await provider.claims_of(account))["nats"].get("revocations")


async def test_the_list_is_right_on_another_machine(own: OwnProgram) -> None:
    """It has the operator's seed, and no file of the machine on which the devices were added."""
    for name in ("d1", "d2", "d3", "d4"):
        await own.add(name)
    for name, state in (("d1", "online"), ("d2", "offline"), ("d3", "online"), ("seen-only", "leaving")):
        await record(own, name, state)
    await own.done("device", "revoke", "d3")
    told = json.loads(await own.done("device", "list", "--json", config="another"))
    assert {device["name"]: device["state"] for device in told} == {
        "d1": "online", "d2": "offline", "d3": "revoked", "d4": "never seen", "seen-only": "leaving",
    }  # fmt: skip
    assert [device["added"] is None for device in told] == [False] * 4 + [True]
    output = await own.done("device", "list", config="another")
    assert [word for line in output.splitlines() if "d1" in line for word in line.split()][:3] == [
        "d1", "online", "2023-11-14",
    ]  # fmt: skip
    await own.done("device", "revoke", "seen-only", config="another")
    assert (await states(own))["seen-only"] == "revoked"


async def test_the_signing_key_is_rotated_while_a_device_publishes(own: OwnProgram) -> None:
    """Each device gets its new JWT in its own time; the former key is void when a person says so."""
    old = await own.add("d1")
    await own.add("gone")
    await own.done("device", "revoke", "gone")
    code, _, error = await own("rotate", "--user", "device")
    assert (code, "this would throw out every device; give --keep-old" in error) == (2, True)
    publishing = await own.connect("d1", old)
    stop = asyncio.Event()

    async def publish() -> None:
        while not stop.is_set():
            await publishing.publish("data/d1/t", b"reading")

    task = asyncio.create_task(publish())
    output = await own.done("rotate", "--user", "device", "--keep-old")
    assert output == ("`device add` signs with a new key; when each device has its new JWT: rotate --user device\n")
    code, _, error = await own("rotate", "--user", "device", "--keep-old")
    assert (code, "the former key is still valid" in error) == (2, True)
    code, output, _ = await own("status")
    assert code == 0
    assert "note       the former signing key of devices is valid too, until `rotate --user device`\n" in output
    new = await own.add("d1")
    await own.done("create")
    stop.set()
    await task
    assert publishing.acknowledged
    moved = await own.connect("d1", new)
    await thrown_out(publishing)  # by its own client id, and not by the rotation
    left_behind = await own.connect("d1", old, client_id="another")
    assert (
        await own.done("rotate", "--user", "device")
        == "voided   every JWT of devices that is older than signing key 1\n"
    )
    await thrown_out(left_behind)
    await moved.publish("data/d1/t", b"reading")
    await moved.disconnect()
    with pytest.raises(Refused):
        await own.connect("d1", old)
    assert (await states(own))["gone"] == "revoked"
    assert "former signing key" not in (await own("status"))[1]


async def test_a_rotation_keeps_what_devices_may_do(own: OwnProgram) -> None:
    await own.done("rotate", "--user", "device", "--keep-old")
    device = await own.connect("d1", await own.add("d1"))
    await device.publish("data/d1/t", b"own")
    await device.publish("data/d2/t", b"another's")
    async with own.administrator() as client:
        data = await client.jetstream().consumer_info(contract.MQTT_STREAM, contract.DATA_CONSUMER)
        assert data.num_pending == 1
    await device.disconnect()


async def test_a_device_is_refused_until_the_devices_are_provisioned_again(own: OwnProgram) -> None:
    jwt = await own.add("d1")
    device = await own.connect("d1", jwt)
    async with own.provider() as (provider, account):
        await provider.remove_user(account, contract.DEVICE_SCOPE)
    await thrown_out(device)
    assert (await own("status"))[0] == 3
    await own.done("create")

    async def back() -> bool:
        try:
            await (await own.connect("d1", jwt)).disconnect()
        except Refused:
            return False
        return True

    await eventually(back, what="the device with the JWT that it has")
