"""The programs that people have for MQTT connect and publish as examples/device says: each reading becomes a row."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from control_plane.cli.recipe import Broker, publish_line
from control_plane.devices import Minted
from local.process import ROOT, Child, running
from service.devices.msg_pb2 import Connect, SensorData
from tests.support.devices.world import HOST, DevicesWorld
from tests.support.world import eventually

needs_mosquitto = pytest.mark.skipif(
    not shutil.which("mosquitto_pub"), reason="mosquitto_pub is not installed (Debian: mosquitto-clients)"
)


def password_of(devices: DevicesWorld, name: str) -> Path:
    path = devices.world.folder / f"{name}.jwt"
    path.write_text(devices.password(name) + "\n")
    return path


@asynccontextmanager
async def example(devices: DevicesWorld, name: str, *command: str) -> AsyncIterator[Child]:
    """Run an example for a device, with the environment of README's lines."""
    port = devices.world.servers.mqtt_ports[0]
    env = {
        "PATH": os.environ["PATH"], "MQTT": f"{HOST}:{port}", "MQTT_HOST": HOST, "MQTT_PORT": str(port), "EVERY": "0.1",
        "MQTT_PASSWORD": str(password_of(devices, name)), "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    async with running(name, command, devices.world.folder / f"{name}.log", env) as child:
        yield child


async def rows_of(devices: DevicesWorld, name: str, count: int = 1) -> None:
    """Wait for that many rows of a device."""

    def stored() -> bool:
        return len([row for row in devices.rows() if row["device"]["S"] == name]) >= count

    await eventually(stored, what=f"{count} rows of {name}")


async def online(devices: DevicesWorld, name: str, state: str = "online") -> None:
    async def there() -> bool:
        return await devices.state(name) == state

    await eventually(there, what=f"{name} {state}")


async def test_the_example_in_python_publishes_and_is_there(devices: DevicesWorld) -> None:
    async with devices.task(), example(devices, "paho", sys.executable, "-m", "examples.device", "paho") as device:
        await rows_of(devices, "paho", 3)
        await online(devices, "paho")
        assert "stored: " in device.log.read_text()
        device.signal(signal.SIGKILL)
        await online(devices, "paho", "leaving")


async def test_aiomqtt_publishes(devices: DevicesWorld) -> None:
    port, name = devices.world.servers.mqtt_ports[0], "aio"
    connecting = aiomqtt.Client(HOST, port, identifier=name, username=name, password=devices.password(name))
    async with devices.task(), connecting as client:
        await client.subscribe("pulse")
        await client.publish(f"connect/{name}", Connect(device=name).SerializeToString(), qos=1)
        reading = SensorData(device=name, temp=21.5, rh=48, epoch=int(time.time()))
        await client.publish(f"data/{name}/climate", reading.SerializeToString(), qos=1)
        await rows_of(devices, name)
        await online(devices, name)


@needs_mosquitto
async def test_the_example_in_shell_publishes_and_is_there(devices: DevicesWorld) -> None:
    script = str(ROOT / "examples/device/device.sh")
    async with devices.task(), example(devices, "shell", script, "shell", "0.1") as device:
        await rows_of(devices, "shell", 2)
        await online(devices, "shell")
        assert "stored: " in device.log.read_text()
        assert await device.stop() == 0


@needs_mosquitto
async def test_the_line_that_device_add_prints_makes_a_row(devices: DevicesWorld) -> None:
    broker = Broker(HOST, devices.world.servers.mqtt_ports[0])
    line = publish_line(broker, Minted("pasted", devices.password("pasted")), None)
    command, log = ("sh", "-c", line), devices.world.folder / "pasted.log"
    async with devices.task(), running("pasted", command, log, {"PATH": os.environ["PATH"]}) as child:
        assert await child.wait() == 0, child.last_words()
        await rows_of(devices, "pasted")
    (row,) = devices.rows()
    assert (row["temp"], row["rh"], row["clock"]) == ({"N": "21.5"}, {"N": "40"}, {"S": "none"})


@needs_mosquitto
async def test_mosquitto_sub_hears_the_pulse(devices: DevicesWorld) -> None:
    port, name = str(devices.world.servers.mqtt_ports[0]), "listener"
    command: Sequence[str] = (
        "mosquitto_sub", "-h", HOST, "-p", port, "-i", name, "-u", name, "-P", devices.password(name), "-t", "pulse",
        "-C", "1", "-v",
    )  # fmt: skip
    async with devices.task(PULSE="0.2"), running(name, command, devices.world.folder / "sub.log") as child:
        async with asyncio.timeout(10):
            assert await child.wait() == 0
        assert child.log.read_text().strip().startswith("pulse")
