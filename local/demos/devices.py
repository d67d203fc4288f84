"""Show devices over MQTT: readings as rows, outages as posts, a broker and a role that are killed."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import grpc
import orjson
from google.protobuf.empty_pb2 import Empty
from nats.js import JetStreamContext
from rich.console import Console

from local.demos.demo import Demo, demonstration
from local.demos.simulated import Device, stopped_at_the_end
from local.demos.webhook import Webhook, webhook
from local.device import add
from local.process import claim_port
from local.roles import READINGS_TABLE, devices_role
from local.servers.dynamodb import client, items
from local.servers.nats_server import nats_server
from local.system import Listener, System, Task
from service.contracts import devices as contract
from service.devices.query.query_pb2 import Range
from service.devices.query.query_pb2_grpc import QueryStub
from service.nats.jetstream import backlog

NAMES: Final = ("attic", "cellar", "kitchen", "roof", "shed")
READINGS: Final = 25
DELAY_S: Final = 3
"""How long a device may be away, as its will says."""
SILENCE_S: Final = 4
WINDOW_S: Final = 1
ACK_WAIT_S: Final = 2
"""After this the server gives a dead role's messages to another; deployed it is 30 s, too long for a demonstration."""
PATIENCE_S: Final = 30.0
_KEYS_FIRST: Final = (contract.PARTITION_KEY, contract.SORT_KEY)

Condition = Callable[[], bool | Awaitable[bool]]


async def run(console: Console) -> None:
    """Run the demonstration. Raises `LocalError` when a check fails."""
    port, starting = claim_port(0, "--mqtt-port"), "nats-server with MQTT, a DynamoDB engine, a webhook and two roles"
    async with (
        demonstration(console, starting, devices=Listener(port)) as (shown, system),
        webhook() as hook,
        AsyncExitStack() as stack,
    ):
        env = {"OUTAGE_WEBHOOK": hook.url, "OUTAGE_WINDOW": str(WINDOW_S), "FACILITY": "house"}
        roles = [
            await stack.enter_async_context(devices_role(system, system.logs / f"role-{number}", env))
            for number in (1, 2)
        ]
        files = await add(system.state, system.nats_url, NAMES)
        passwords = {each: path.read_text().strip() for each, path in files.items()}
        devices = {each: Device(each, passwords[each], port, delay_s=DELAY_S) for each in NAMES[1:]}
        devices["attic"] = Device("attic", passwords["attic"], port, delay_s=DELAY_S, silence_s=SILENCE_S)
        demo = _Demo(shown, system, hook, devices)
        with stopped_at_the_end(devices):
            await demo.readings()
            await demo.outage()
            await demo.killed_role(*(task for task, _ in roles))
            async with demo.killed_broker():
                await demo.over_grpc(roles[1][1])
                await demo.ended(roles[1][0])


class _Demo:
    """The chapters of the demonstration: each shows something and checks it."""

    def __init__(self, demo: Demo, system: System, hook: Webhook, devices: dict[str, Device]) -> None:
        self._title, self._note, self._check = demo.title, demo.note, demo.check
        self.system = system
        self.hook = hook
        self.devices = devices

    async def readings(self) -> None:
        """Show that readings become rows, once each."""
        there = [self.devices[name] for name in NAMES[1:]]
        self._title(f"{len(there)} devices publish {READINGS} readings each over MQTT, and then all of them again")
        for device in there:
            await asyncio.to_thread(device.start)
            device.read(READINGS)
        wanted = len(there) * READINGS
        await self._comes(lambda: self._stored(wanted), f"each of the {wanted} readings is a row")
        row = next(row for row in await self._rows() if row["device"] == "cellar")
        self._note(orjson.dumps({key: row[key] for key in _KEYS_FIRST} | row).decode())
        for device in there:
            device.repeat()
        await self._comes(self._nothing_waits, "nothing waits in the stream")
        self._check(len(await self._rows()) == wanted, f"sent again, they are the same {wanted} rows")

    async def outage(self) -> None:
        """Show that a device that dies is reported, and one that comes back in time is not."""
        self._title(f"roof loses its connection and connects again; shed dies; both have {DELAY_S} s to come back")
        self.devices["roof"].drop()
        self.devices["shed"].die()
        await self._comes(lambda: self.hook.named("down") == ["shed"], "shed is reported to the webhook")
        self._note_post()
        self._check(self.devices["roof"].is_connected, "roof is back, and was not reported")
        await asyncio.to_thread(self._again, "shed")
        await self._comes(lambda: self.hook.named("up") == ["shed"], "shed is back, which is reported too")
        self._note_post()

    async def killed_role(self, victim: Task, other: Task) -> None:
        """Show that the other role stores what the dead one had not acknowledged."""
        self._title("One of the two roles is killed while the devices publish")
        async with self.system.administrator() as admin:
            await _shorten_ack_wait(admin.jetstream())
        for number in range(10):
            for name in NAMES[1:]:
                self.devices[name].read(READINGS)
            if number == 4:
                victim.child.signal(signal.SIGKILL)
            await asyncio.sleep(0.05)
        await victim.child.wait()
        wanted = self._published
        await self._comes(lambda: self._stored(wanted), f"each of {wanted} readings is a row")
        self._check(other.child.process.returncode is None, "the other role runs")

    @asynccontextmanager
    async def killed_broker(self) -> AsyncIterator[None]:
        """Show that a device is missed though no will was published: a broker that is killed publishes none."""
        attic = self.devices["attic"]
        await asyncio.to_thread(attic.start)
        attic.read()
        await self._until(lambda: self._stored(self._published))
        self._title(
            f"The broker is killed while the devices publish; attic, with {SILENCE_S} s of silence, dies with it"
        )
        for name in NAMES[1:]:
            self.devices[name].read(READINGS)
        self.system.nats.signal(signal.SIGKILL)
        await self.system.nats.wait()
        attic.die()
        for name in NAMES[1:]:
            self.devices[name].read(READINGS)
        state, port = self.system.state, int(self.system.nats_url.rpartition(":")[2])
        again = nats_server(
            state.folder / "nats", port, operator=state.operator(), system=state.system(), mqtt=self.system.mqtt
        )
        async with again:
            self._note("nats-server runs again; the devices connect again, and send again what had no PUBACK")
            wanted = self._published
            await self._comes(lambda: self._stored(wanted), f"each of {wanted} readings is a row, once")
            await self._comes(
                lambda: self.hook.named("down") == ["shed", "attic"],
                "attic is reported, and nobody else",
            )
            self._note_post()
            yield

    async def over_grpc(self, address: str) -> None:
        """Show the rows as other programs get them."""
        self._title("The rows over gRPC")
        rows = await self._rows()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = QueryStub(channel)
            found = [row async for row in stub.GetSensorRows(Empty())]
            last = [row async for row in stub.GetDeviceRows(Range(device="cellar", limit=3, newest_first=True))]
        self._note(f"GetSensorRows: {len(found)} rows")
        for row in last:
            self._note(f"GetDeviceRows: {row.device} {row.temp:g} °C {row.rh:g} % at {row.epoch}")
        self._check(len(found) == len(rows), "GetSensorRows sends every row")

    async def ended(self, task: Task) -> None:
        task.child.signal(signal.SIGTERM)
        self._check(await task.child.wait() == 0, "the role drains and ends with 0")

    def _again(self, name: str) -> None:
        """Switch a device on that had died."""
        dead = self.devices[name]
        self.devices[name] = dead.again()
        self.devices[name].start()

    @property
    def _published(self) -> int:
        return sum(len(device.readings) for device in self.devices.values())

    async def _rows(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(_scanned, self.system)

    async def _stored(self, wanted: int) -> bool:
        return len(await self._rows()) == wanted

    async def _nothing_waits(self) -> bool:
        async with self.system.administrator() as admin:
            return backlog(await admin.jetstream().consumer_info(contract.MQTT_STREAM, contract.DATA_CONSUMER)) == 0

    async def _until(self, condition: Condition) -> bool:
        """Return whether it comes true while one waits."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _comes(self, condition: Condition, what: str) -> None:
        self._check(await self._until(condition), what)

    def _note_post(self) -> None:
        for post in self.hook.posts[-1:]:
            self._note(f"POST {orjson.dumps(post).decode()}")


async def _shorten_ack_wait(jetstream: JetStreamContext) -> None:
    for stream, name in contract.CONSUMERS:
        config = (await jetstream.consumer_info(stream, name)).config
        await jetstream.add_consumer(stream, dataclasses.replace(config, ack_wait=ACK_WAIT_S))


def _scanned(system: System) -> list[dict[str, Any]]:
    rows = items(client(system.dynamodb_env), READINGS_TABLE)
    return [{name: next(iter(value.values())) for name, value in row.items()} for row in rows]
