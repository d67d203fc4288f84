"""The pulse: what MQTT devices receive, from one process at a time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from service.contracts import devices as contract
from service.devices.presence.lock import MARGIN_S, RENEW_S, TTL_S, Lock
from service.devices.pulse import Pulse
from tests.support.devices.presence import connection
from tests.support.devices.world import DevicesWorld, make_devices
from tests.support.own_servers import own_server
from tests.support.world import World, eventually


async def test_devices_hear_a_pulse_from_one_process(devices: DevicesWorld) -> None:
    heard: list[tuple[str, bytes]] = []
    device = await devices.connect("d1", on_message=lambda topic, payload: heard.append((topic, payload)))
    await device.subscribe("pulse")
    async with connection(devices) as first, connection(devices) as second:
        one, two = Pulse(first, 0.2), Pulse(second, 0.2)
        await one.start()
        await eventually(lambda: len(heard) >= 3)
        await two.start()
        await eventually(lambda: len(heard) >= 10)
        assert two.sent == 0
        assert set(heard) == {("pulse", b"")}
        await one.close()
        sent = one.sent
        await eventually(lambda: two.sent >= 2, within_s=TTL_S)  # released: nobody waits for its end
        assert one.sent == sent
        await two.close()
    await device.disconnect()


async def test_zero_is_no_pulse(devices: DevicesWorld) -> None:
    async with connection(devices) as opened:
        pulse = Pulse(opened, 0)
        await pulse.start()
        await pulse.close()
        assert pulse.sent == 0


async def test_a_lock_is_held_by_one_and_taken_over_when_its_holder_is_gone(devices: DevicesWorld) -> None:
    running: list[str] = []

    def work(name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            running.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                running.remove(name)

        return run

    async with connection(devices) as first, connection(devices) as second:
        one, two = Lock(first.nc, contract.LOCK_PULSE), Lock(second.nc, contract.LOCK_PULSE)
        holding = asyncio.create_task(one.hold(work("one")))
        await eventually(lambda: running == ["one"])
        waiting = asyncio.create_task(two.hold(work("two")))
        await asyncio.sleep(2 * RENEW_S)
        assert running == ["one"]
        await first.nc.close()
        await eventually(lambda: "two" in running, within_s=15)
        assert running == ["two"], "the first gave up before the second began"
        for task in (holding, waiting):
            task.cancel()
        await asyncio.gather(holding, waiting, return_exceptions=True)


async def test_a_lock_whose_key_another_took_is_given_up(devices: DevicesWorld) -> None:
    ended = asyncio.Event()

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with connection(devices) as opened:
        lock = Lock(opened.nc, contract.LOCK_PULSE)
        holding = asyncio.create_task(lock.hold(run))
        await eventually(lambda: lock.held)
        await devices.admin.publish(f"{contract.KEY_PREFIX}{contract.LOCK_PULSE}", b"another")
        async with asyncio.timeout(2 * RENEW_S + 2):
            await ended.wait()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def test_a_holder_waits_for_no_answer_beyond_the_time_it_gives_up_at(world: World, tmp_path: Path) -> None:
    """The server stops in the middle of a connection: it neither answers nor closes."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    late_s: list[float] = []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with (
        own_server(world, tmp_path / "own") as (own, server),
        make_devices(own) as devices,
        connection(devices) as opened,
    ):
        lock, request = Lock(opened.nc, contract.LOCK_PULSE), opened.nc.request

        async def noted(subject: str, payload: bytes, *, timeout: float, **given: Any) -> Any:  # noqa: ASYNC109
            if lock.held and not ended.is_set():
                late_s.append(loop.time() + timeout - (lock._until_s - MARGIN_S))
            return await request(subject, payload, timeout=timeout, **given)

        opened.nc.request = noted  # type: ignore[method-assign, assignment]
        holding = asyncio.create_task(lock.hold(run))
        await eventually(lambda: lock.held)
        server.child.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(TTL_S + 10):
                await ended.wait()
        finally:
            server.child.signal(signal.SIGCONT)
        assert late_s
        assert max(late_s) < MARGIN_S / 2
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
