"""A consumer that hands out nothing more, on purpose or not: which of it is an error, and who is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from service.contracts import queue as contract
from service.contracts.stream import STREAM
from service.sources.jetstream import consumer as module
from service.sources.source import Unreachable
from tests.service.queue.test_source import reading
from tests.support.archive import ArchiveWorld, make_archive
from tests.support.check import check
from tests.support.nats.plain import api
from tests.support.queue.sidecar import OriginalClient, sidecar, sidecar_env, store
from tests.support.world import World, eventually, get, log_lines

BYTES = 3_500_000


async def configure(world: World, consumer: str, **changes: Any) -> None:
    """As the consumer is, but for the changes; one that is not there yet is made."""
    async with world.administrator() as admin:
        config = (await api(admin._nc, f"CONSUMER.INFO.{STREAM}.{consumer}"))["config"]
        await api(
            admin._nc,
            f"CONSUMER.CREATE.{STREAM}.{consumer}",
            stream_name=STREAM,
            config={**config, **changes},
        )


async def pause(world: World, consumer: str) -> str:
    until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    async with world.administrator() as admin:
        await api(admin._nc, f"CONSUMER.PAUSE.{STREAM}.{consumer}", pause_until=until)
    return until


async def test_a_full_one_is_ready_and_says_so(world: World) -> None:
    await configure(world, contract.CONSUMER, max_ack_pending=5)
    await store(world, *[b"x"] * 8)
    async with sidecar(world) as (task, channel):
        client = OriginalClient(channel)
        held = await client.receive(visibility_s=30, limit=10)
        assert len(held) == 5
        full = {"queue": "full: 5 messages are held and not deleted yet (max_ack_pending 5)"}

        async def says_so() -> bool:
            status, body = await get(f"{task.health_url}/readyz")
            assert status == 200
            return bool(orjson.loads(body) == {"status": "ready", "remarks": full})

        await eventually(says_so)
        assert await client.receive(limit=10, wait_s=1) == []
        await client.delete(held[0].messageID)

        async def has_room() -> bool:
            return (await get(f"{task.health_url}/readyz"))[1] == '{"status": "ready"}'

        await eventually(has_room)


async def test_a_paused_one_is_ready_and_says_so(world: World) -> None:
    await store(world, b"x")
    until = await pause(world, contract.CONSUMER)
    code, lines = await check(world, role="queue", **sidecar_env(world))
    assert code == 0
    assert [line for line in lines if f"paused until {until}" in line]
    async with sidecar(world) as (task, channel):
        assert await OriginalClient(channel).receive(wait_s=1) == []
        status, body = await get(f"{task.health_url}/readyz")
        assert status == 200
        assert orjson.loads(body)["remarks"]["queue"].startswith(f"paused until {until}")
        log = log_lines(task.child.log.read_text())
        (reason,) = [line["reason"] for line in log if line["event"] == "the consumer hands out nothing more"]
        assert reason.startswith(f"paused until {until}")


async def test_a_paused_archive_is_ready_and_says_so(world: World) -> None:
    until = await pause(world, "archive")
    archive: ArchiveWorld
    async with make_archive(world) as archive, archive.task() as task:
        status, body = await get(f"{task.health_url}/readyz")
        assert status == 200
        assert orjson.loads(body)["remarks"]["source"].startswith(f"paused until {until}")


PRIORITY = {"priority_groups": ["a"], "priority_policy": "overflow"}


@pytest.mark.parametrize("role", ["queue", "archive"])
async def test_one_with_priority_groups_is_refused_at_the_start(role: str, world: World) -> None:
    await configure(world, role, **PRIORITY)
    async with make_archive(world) as archive:
        env = sidecar_env(world) if role == "queue" else archive.environment()
        code, lines = await check(world, role=role, **env)
    assert code == 1
    assert [line for line in lines if line.startswith("missing") and "priority_groups" in line]


async def test_a_status_that_is_unknown_is_an_error_of_the_running_one(world: World) -> None:
    await store(world, b"x")
    async with reading(world) as source:
        await configure(world, contract.CONSUMER, **PRIORITY)
        with pytest.raises(Unreachable, match=r"Priority Group missing|priority_groups"):
            await source.receive(10, BYTES, 30, 0)
        assert "Priority Group missing" in source.problem() or "priority_groups" in source.problem()
        await configure(world, contract.CONSUMER, priority_groups=[], priority_policy="none")
        module._held_back._kinds.clear()
        with capture_logs() as logs:
            assert len(await source.receive(10, BYTES, 30, 5)) == 1
        assert source.problem() == ""
        assert logs == []


async def test_what_a_consumer_bounds_is_not_asked_for(world: World) -> None:
    """The server refuses a pull that asks for more, whole."""
    await configure(world, contract.CONSUMER, max_batch=2, max_expires=1_000_000_000, max_bytes=1_000)
    await store(world, *[b"x"] * 3)
    async with reading(world) as source:
        assert len(await source.receive(10, BYTES, 30, 5)) == 2
        assert len(await source.receive(10, BYTES, 30, 5)) == 1
        assert await source.receive(10, BYTES, 30, 3) == []
        assert source.problem() == ""
