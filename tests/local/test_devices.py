"""Devices of the local system, as a person adds them."""

from __future__ import annotations

import os
import re
import ssl
import stat
import threading
from io import StringIO
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from benchmark.load.mqtt import Mqtt, Refused
from control_plane.errors import UsageError
from control_plane.self_hosted import provider as self_hosted
from local.demos import devices as devices_demo
from local.demos.demo import ANY_PORT
from local.device import add, announced, announcement, recipe
from local.process import LocalError, running
from local.state import State
from local.system import Listener, local_system
from service.contracts import devices as contract
from tests.support.command import command, finished, one_after_another
from tests.support.world import eventually

ANY_PORTS = ("--nats-port", "0", "--dynamodb-port", "0", "--gateway-port", "0", "--health-port", "0")


def python_line(output: str) -> list[str]:
    """Return the command that runs the printed line for Python."""
    found = re.search(r"^  ((MQTT_CA=\S+ )?MQTT=.*?examples\.device \S+)$", output, re.DOTALL | re.MULTILINE)
    assert found, output
    return ["sh", "-c", f"exec env {found[1]}"]


@pytest.mark.parametrize("tls", ["", "localhost"])
async def test_a_device_that_was_added_publishes_and_no_other(tmp_path: Path, tls: str) -> None:
    async with local_system(tmp_path, ANY_PORT, tasks=0, devices=Listener(0, tls)) as system:
        with announced(system) as broker:
            assert announcement(State(tmp_path)) == broker
            files = await add(system.state, broker.nats_url, ["greenhouse", "shed"])
            with pytest.raises(UsageError, match="no device's name"):
                await add(system.state, broker.nats_url, ["a.b"])
            line = python_line(recipe(broker, "shed", files["shed"]))
            async with running("shed", line, tmp_path / "shed.log", {"PATH": os.environ["PATH"]}) as shed:
                await eventually(lambda: "stored: " in shed.log.read_text(), what=line[-1])
        trust = ssl.create_default_context(cafile=broker.authority) if tls else None
        for name, path in files.items():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            password = path.read_text().strip()
            device = await Mqtt.connect(broker.host, broker.port, name, user=name, password=password, tls=trust)
            await device.publish(f"data/{name}/climate", b"reading")
            await device.disconnect()
        with pytest.raises(Refused):
            await Mqtt.connect(broker.host, broker.port, "strange", user="strange", password="x", tls=trust)
    with pytest.raises(LocalError, match="no system that takes devices runs"):
        announcement(State(tmp_path))


async def test_readme_takes_a_reader_from_nothing_to_a_row(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ports = ("--mqtt-port", "0", "--devices-port", "0", *ANY_PORTS)
    async with command("local", "up", "--devices", "--tasks", "0", "--state", str(state), *ports) as up:
        await eventually(lambda: "Ctrl-C stops everything" in up.output or "error" in up.output, within_s=30)
        (refused, said), (code, output) = await one_after_another(
            "local", [("device", name, "--state", str(state)) for name in ("green.house", "greenhouse")]
        )
        assert (refused, len(said.splitlines()), "is no device's name" in said) == (1, 1, True), said
        assert code == 0, output
        env = {"PATH": os.environ["PATH"], "EVERY": "0.2"}
        async with running("greenhouse", python_line(output), tmp_path / "device.log", env) as device:
            await eventually(lambda: "stored: " in device.log.read_text())
            nats_url = re.search(r"nats --server (\S+)", up.output)
            assert nats_url
            creds = (state / "creds" / "client.creds").read_text()
            async with self_hosted.connected(nats_url[1], creds, inbox_prefix="_INBOX") as client:

                async def known() -> bool:
                    request = orjson.dumps({"device": "greenhouse"})
                    answer = orjson.loads((await client.request(contract.GET_SUBJECT, request)).data)
                    return answer.get("state") == "online" and "last" in answer

                await eventually(known, what="the reading as a row")
        assert "grpcurl -plaintext" in up.output
    assert not (state / "devices" / "broker.json").exists()


async def test_the_demo_passes_and_leaves_no_device_running() -> None:
    output = StringIO()
    await devices_demo.run(Console(file=output, width=200))
    assert "all 12 checks passed" in output.getvalue()
    assert [each.name for each in threading.enumerate() if "paho" in each.name] == []


async def test_a_device_without_a_system_is_one_line(tmp_path: Path) -> None:
    code, output = await finished("local", "device", "greenhouse", "--state", str(tmp_path))
    assert (code, output) == (
        1, f"error: no system that takes devices runs in {tmp_path}; run `make up DEVICES=1`\n"
    )  # fmt: skip


async def test_a_port_that_is_given_twice_is_said_in_one_line(tmp_path: Path) -> None:
    given = ("--mqtt-port", "31998", "--nats-port", "31998", *ANY_PORTS[2:])
    ((code, output),) = await one_after_another(
        "local", [("up", "--devices", "--state", str(tmp_path / "state"), *given)]
    )
    assert (code, "port 31998 is given twice (--nats-port, --mqtt-port)" in output) == (1, True), output
