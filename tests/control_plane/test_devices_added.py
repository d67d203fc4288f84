"""`device add`: names, JWTs, and what can be pasted."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmark.load.mqtt import Mqtt, Will
from control_plane.auth import claims
from control_plane.cli.recipe import Broker
from control_plane.errors import UsageError
from control_plane.self_hosted import provider as self_hosted
from service.contracts import devices as contract
from tests.control_plane.conftest import OwnProgram

LONGEST = "a-device_with-the-longest-name-of-36"
FIRMWARE_BYTES = 1024
"""The original firmware's buffer: it sends no larger packet."""


@pytest.mark.parametrize(
    "name",
    ["*", ">", "a.b", "a b", "", "a" * 37, "ü", "a/b", "{{name()}}", "a\n", "$x", "a#", "+"],
)
async def test_a_name_is_a_permission(own: OwnProgram, name: str) -> None:
    for command in ("add", "revoke"):
        code, output, error = await own("device", command, "fine", name)
        assert (code, output) == (2, "")
        assert "is no device's name: 1 to 36 letters, digits, _ and -; nothing was done" in error
    assert json.loads(await own.done("device", "list", "--json")) == []


async def test_no_name_is_said(own: OwnProgram, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    for arguments in ((), ("--file", str(tmp_path / "empty.txt"))):
        code, _, error = await own("device", "add", *arguments)
        assert (code, "there is no name; give one" in error) == (2, True)
    code, _, error = await own("device", "add", "a", "--file", "x")
    assert (code, "give names or --file, not both" in error) == (2, True)
    code, _, error = await own("device", "add", "--file", str(tmp_path / "none.txt"))
    assert (code, "none.txt cannot be read (No such file or directory)" in error) == (1, True)


async def test_a_device_connects_with_its_jwt_over_mqtt_alone(own: OwnProgram) -> None:
    jwt = await own.add("tank-1")
    device = await own.connect("tank-1", jwt)
    await device.subscribe("pulse")
    for topic in ("#", "data/#", "$SYS/#", "$SYS/ACCOUNT/+/CONNECT", "$JS/#"):
        with pytest.raises(PermissionError):
            await device.subscribe(topic)
    for topic in (
        "connect/tank-1",
        "data/tank-1/t",
        "lwt/tank-1",
        "data/tank-2/t",
        "pulse",
        "devices/event/down/tank-1",
    ):
        await device.publish(topic, b"?")
    async with own.administrator() as client:
        for consumer, expected in ((contract.DATA_CONSUMER, 1), (contract.LIFE_CONSUMER, 2)):
            info = await client.jetstream().consumer_info(contract.MQTT_STREAM, consumer)
            assert info.num_pending == expected
    await device.disconnect()
    nats: dict[str, Any] = {"jwt": jwt, "verbose": False, "pedantic": False, "protocol": 1, "echo": True}
    host, port = own.servers.nats_url.removeprefix("nats://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    writer.write(b"CONNECT %b\r\nPING\r\n" % json.dumps(nats).encode())
    assert b"Authorization Violation" in await reader.readline()
    writer.close()


async def test_the_longest_name_fits_into_the_firmware(own: OwnProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(LONGEST) == 36
    jwt = await own.add(LONGEST)
    sent: list[bytes] = []
    original = Mqtt.connection_made

    def made(self: Mqtt, transport: asyncio.Transport) -> None:
        write = transport.write

        def noted(data: bytes) -> None:
            sent.append(data)
            write(data)

        monkeypatch.setattr(transport, "write", noted, raising=False)
        original(self, transport)

    monkeypatch.setattr(Mqtt, "connection_made", made)
    will = b"\x0a\x24" + LONGEST.encode() + b"\x10\xff\xff\xff\xff\x07\x18\xff\xff\xff\xff\x07"  # delay and session
    device = await own.connect(LONGEST, jwt, will=Will(f"lwt/{LONGEST}", will))
    await device.disconnect()
    assert LONGEST.encode() in sent[0]
    assert jwt.encode() in sent[0]
    assert len(sent[0]) <= FIRMWARE_BYTES


async def test_what_is_printed_can_be_pasted(own: OwnProgram, tmp_path: Path) -> None:
    """The shell runs the line; a program of that name notes what it gets, as mosquitto's would."""
    url = f"mqtt://127.0.0.1:{own.servers.mqtt_ports[0]}"
    code, output, error = await own("device", "add", "tank-1", "--mqtt", url)
    assert code == 0
    assert error == "the JWT is kept nowhere: this is the only time that it is shown\n"
    shell, cfg = output.split("\n\n")
    values = tomllib.loads(cfg)
    assert values.pop("mqtt_pass").count(".") == 2
    assert values == {
        "broker_uri": url, "mqtt_user": "tank-1", "connect_topic": "connect/tank-1", "pulse_topic": "pulse",
        "data_topic": "data/tank-1/sensor", "lwt_topic": "lwt/tank-1", "lwt_delay": 10,
    }  # fmt: skip
    program = tmp_path / "bin" / "mosquitto_pub"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat > {tmp_path}/input\n'
        f'cp -p "$XDG_CONFIG_HOME/mosquitto_pub" {tmp_path}/options\nexit 7\n'
    )
    program.chmod(0o700)
    (tmp_path / "temporary").mkdir()
    environment = {
        **os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "temporary"),
    }  # fmt: skip
    for shell_name in ("sh", "bash"):
        process = await asyncio.create_subprocess_exec(shell_name, "-c", shell, env=environment)
        assert await process.wait() == 7, "the line says whether mosquitto_pub succeeded"
        assert not list((tmp_path / "temporary").iterdir())
        assert stat.S_IMODE((tmp_path / "options").stat().st_mode) == 0o600
        option, _, jwt = (tmp_path / "options").read_text().strip().partition(" ")
        assert option == "-P"
        given = (tmp_path / "arguments").read_text().splitlines()
        options = dict(zip(given[:-1:2], given[1:-1:2], strict=True))
        assert given[-1] == "-s"
        assert not [text for text in given if jwt in text], "everyone sees a program's arguments"
        assert (tmp_path / "input").read_bytes() == b"\x0a\x06tank-1\x15\x00\x00\xac\x41\x1d\x00\x00\x20\x42"
    assert (options["-h"], options["-V"], options["-q"]) == ("127.0.0.1", "mqttv311", "1")
    device = await Mqtt.connect(options["-h"], int(options["-p"]), options["-i"], user=options["-u"], password=jwt)
    await device.publish(options["-t"], (tmp_path / "input").read_bytes())
    await device.disconnect()


async def test_a_jwt_may_go_into_a_file(own: OwnProgram, tmp_path: Path) -> None:
    out = tmp_path / "it's here"
    code, output, error = await own("device", "add", "tank-1", "--out", str(out))
    jwt = (out / "tank-1.jwt").read_text().strip()
    assert code == 0
    assert jwt not in output + error
    assert f'mqtt_pass = "the text of {out}/tank-1.jwt"' in output
    assert stat.S_IMODE((out / "tank-1.jwt").stat().st_mode) == 0o600
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    command = output.splitlines()[1].partition(" -P ")[2].partition(" >")[0]
    process = await asyncio.create_subprocess_exec("sh", "-c", f"printf %s {command}", stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0].decode() == jwt
    await (await own.connect("tank-1", jwt)).disconnect()
    (added,) = json.loads(await own.done("device", "add", "tank-1", "--out", str(out), "--json"))
    assert (added["name"], added["file"], "jwt" in added) == ("tank-1", str(out / "tank-1.jwt"), False)


async def test_many_are_added_with_progress(own: OwnProgram, tmp_path: Path) -> None:
    names = [f"d-{number:04}" for number in range(1_200)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n\n" + names[0])
    code, output, error = await own("device", "add", "--file", str(tmp_path / "names.txt"))
    assert code == 0
    assert error.splitlines() == ["added 500 of 1,200", "added 1,000 of 1,200", "added 1,200 of 1,200"]
    jwts = dict(line.split("\t") for line in output.splitlines())
    assert list(jwts) == names
    assert {claims.decode(jwt)["name"] for jwt in jwts.values()} == set(names)
    await (await own.connect("d-1199", jwts["d-1199"])).disconnect()
    told = json.loads(await own.done("device", "list", "--json"))
    assert [device["name"] for device in told] == names
    assert {device["state"] for device in told} == {"never seen"}


async def test_an_account_without_the_part_says_so(own: OwnProgram) -> None:
    async with own.provider() as (provider, account):
        await provider.remove_user(account, contract.DEVICE_SCOPE)
    for arguments in (("add", "d1"), ("list",), ("revoke", "d1")):
        code, _, error = await own("device", *arguments)
        assert (code, error) == (1, "error: the account takes no devices; run create --with devices\n")


async def test_a_register_that_is_gone_is_said(own: OwnProgram) -> None:
    async with own.provider() as (provider, account):
        await provider.remove_bucket(account, "device-register")
    code, output, error = await own("device", "add", "d1")
    assert (code, output) == (1, "")
    assert error.startswith("error: bucket device-register takes no device (")
    assert error.endswith("; run create --with devices, then this again\n")
    code, _, error = await own("device", "list")
    assert (code, error) == (1, "error: there is no bucket device-register; run create --with devices\n")


@pytest.mark.parametrize(
    ("url", "server", "broker"),
    [
        ("", "nats://here:4222,nats://there:4222", Broker("here", 1883)),
        ("", "tls://[::1]:4222", Broker("::1", 1883)),
        ("mqtt://a", "nats://b", Broker("a", 1883)),
        ("mqtts://a", "nats://b", Broker("a", 8883, tls=True)),
        ("mqtts://a:1/", "nats://b", Broker("a", 1, tls=True)),
    ],
)
def test_where_devices_connect(url: str, server: str, broker: Broker) -> None:
    assert Broker.parse(url, server) == broker
    assert Broker.parse(broker.url, None) == broker


@pytest.mark.parametrize("url", ["a", "tcp://a", "mqtt://", "mqtt://a:x", "mqtt://a/b", "mqtt://a:99999"])
def test_an_invalid_address_is_reported(url: str) -> None:
    with pytest.raises(UsageError, match="is no address; give one such as"):
        Broker.parse(url, None)


async def test_the_operators_seed_makes_no_device(own: OwnProgram) -> None:
    """A device's key is derived from it for its public half alone: nobody has its seed, and none is needed."""
    said = claims.decode(await own.add("tank-1"))
    async with own.provider() as (provider, account):
        assert said["sub"] == provider.device_key(account, "tank-1", 0) != provider.device_key(account, "tank-2", 0)
        assert said["iat"] < self_hosted.FOR_GOOD
