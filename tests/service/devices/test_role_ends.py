"""The role ends when it is asked to, in time, and says why when it ends by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from local.system import Task
from service.contracts import devices as contract
from tests.support.archive import ended
from tests.support.devices.load import sending
from tests.support.devices.world import DevicesWorld, make_devices
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB
from tests.support.network import network
from tests.support.own_servers import own_server
from tests.support.world import World, eventually, log_lines

NAMES = [f"d{number}" for number in range(5)]


async def slow_writes(action: str, _: Call) -> None:
    if action == "BatchWriteItem":
        await asyncio.sleep(1.0)


async def terminated(task: Task, within_s: float = 20) -> int:
    """Send SIGTERM; return the exit code."""
    task.child.signal(signal.SIGTERM)
    async with asyncio.timeout(within_s):
        return await task.child.wait()


async def test_sigterm_under_load_leaves_the_rest_to_the_next_process_at_once(
    devices: DevicesWorld, proxy: FaultyDynamoDB
) -> None:
    devices.env = proxy.env
    async with sending(devices, NAMES, every_s=0.001) as sent:
        await eventually(lambda: sent.total > 1500, within_s=30, what="readings")
    proxy.fault = slow_writes
    async with devices.task() as task:
        await eventually(
            lambda: len([action for action, _ in proxy.calls if action == "BatchWriteItem"]) > 5, what="writes"
        )
        assert await terminated(task) == 0
        (drained,) = [line for line in log_lines(task.child.log.read_text()) if line["event"] == "drained"]
    assert 0 < drained["rows"] < sent.total
    proxy.fault = None
    async with devices.task():
        # Well before `ack_wait`, which is 30 seconds.
        await eventually(devices.is_written, within_s=15, what="an empty backlog")
    assert devices.readings() == sorted(sent.readings())


async def test_sigterm_while_it_starts_gives_back_what_it_took(devices: DevicesWorld, proxy: FaultyDynamoDB) -> None:
    devices.env = proxy.env
    async with sending(devices, NAMES, every_s=0.001) as sent:
        await eventually(lambda: sent.total > 600, within_s=30, what="readings")
    proxy.fault = slow_writes
    async with devices.launch() as task:
        await eventually(lambda: any(action == "BatchWriteItem" for action, _ in proxy.calls), what="a write")
        assert await terminated(task) == 0
    proxy.fault = None
    async with devices.task():
        await eventually(devices.is_written, within_s=15, what="an empty backlog")
    assert devices.readings() == sorted(sent.readings())


async def test_sigterm_while_nats_is_silent_ends_it_in_time(devices: DevicesWorld) -> None:
    async with (
        network(devices.world.nats_url) as (there, url),
        devices.task(NATS_URL=url, SHUTDOWN_TIMEOUT="3") as task,
        there.stalled(),
    ):
        assert await terminated(task, within_s=8) == 0


async def test_sigterm_when_the_broker_is_gone_for_good_ends_it_in_time(world: World, tmp_path: Path) -> None:
    async with own_server(world, tmp_path / "nats") as (own, server), make_devices(own) as devices:
        async with devices.task(SHUTDOWN_TIMEOUT="3") as task:
            await server.kill()
            await eventually(lambda: "NATS connection lost" in task.child.log.read_text(), what="the loss in its log")
            began = time.monotonic()
            assert await terminated(task) == 0
            assert time.monotonic() - began < 3 + 3
        await server.start()


@pytest.mark.parametrize(("stream", "consumer"), contract.CONSUMERS[:3])
async def test_it_ends_when_a_consumer_is_gone(devices: DevicesWorld, stream: str, consumer: str) -> None:
    async with devices.task() as task:
        await devices.admin.delete_consumer(stream, consumer)
        async with asyncio.timeout(30):
            assert await task.child.wait() == 1
        assert f"consumer {consumer} of stream {stream} does not exist; make it" in ended(task.child.log.read_text())
