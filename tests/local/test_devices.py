"""Devices of the local system, as a person adds them."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from benchmark.load.mqtt import Mqtt, Refused
from control_plane.errors import UsageError
from local.demos.balance import ANY_PORT
from local.device import add, announced, announcement
from local.process import LocalError
from local.state import State
from local.system import Listener, local_system
from tests.support.command import finished, one_after_another


@pytest.mark.parametrize("tls", ["", "localhost"])
async def test_a_device_that_was_added_publishes_and_no_other(tmp_path: Path, tls: str) -> None:
    async with local_system(tmp_path, ANY_PORT, tasks=0, devices=Listener(0, tls)) as system:
        with announced(system) as broker:
            assert announcement(State(tmp_path)) == broker
            files = await add(system.state, broker.nats_url, ["greenhouse", "shed"])
            with pytest.raises(UsageError, match="no device's name"):
                await add(system.state, broker.nats_url, ["a.b"])
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


async def test_a_device_without_a_system_is_one_line(tmp_path: Path) -> None:
    code, output = await finished("local", "device", "greenhouse", "--state", str(tmp_path))
    assert (code, output) == (
        1, f"error: no system that takes devices runs in {tmp_path}; run `make up DEVICES=1`\n"
    )  # fmt: skip


async def test_a_port_that_is_given_twice_is_said_in_one_line(tmp_path: Path) -> None:
    ports = ("--nats-port", "31998", "--dynamodb-port", "0", "--gateway-port", "0", "--health-port", "0")
    ((code, output),) = await one_after_another(
        "local", [("up", "--devices", "--mqtt-port", "31998", "--state", str(tmp_path / "state"), *ports)]
    )
    assert (code, "port 31998 is given twice (--nats-port, --mqtt-port)" in output) == (1, True), output
