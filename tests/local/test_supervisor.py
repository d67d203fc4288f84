"""What starts the local archive by its backlog: it goes on whatever fails, does not hurry, and does not grow."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.sections import ArchiveSection, ScalingStep
from local.scaling import supervisor
from local.scaling.supervisor import Supervisor
from tests.support.world import eventually

POLL_S = 0.1
ONE = ArchiveSection(idle_exit=2, steps=(ScalingStep(backlog=1, tasks=1),))


@asynccontextmanager
async def supervising(
    backlog: Callable[[], Awaitable[int]], folder: Path, said: list[tuple[float, str]], **env: str
) -> AsyncIterator[Supervisor]:
    made = Supervisor(
        backlog, {"PATH": os.environ["PATH"], **env}, folder, ONE, lambda line: said.append((time.monotonic(), line))
    )
    running = asyncio.create_task(made.run())
    try:
        yield made
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "POLL_S", POLL_S)


async def test_a_backlog_that_cannot_be_read_is_reported_once_and_read_again(tmp_path: Path) -> None:
    said: list[tuple[float, str]] = []
    read = 0

    async def backlog() -> int:
        nonlocal read
        read += 1
        raise TimeoutError("nats: timeout")

    async with supervising(backlog, tmp_path, said):
        await eventually(lambda: read > 3, what="a backlog read again and again")
    assert [line for _, line in said] == ["the backlog cannot be read (TimeoutError: nats: timeout); trying again"]


async def test_tasks_that_fail_are_started_ever_more_slowly_and_leave_the_last_logs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "ENDED_KEPT", 2)
    said: list[tuple[float, str]] = []

    async def backlog() -> int:
        return 1

    async with supervising(backlog, tmp_path, said, NATS_URL="nope") as made:
        await eventually(lambda: len(said) >= 7, within_s=60, what="four tasks started, and three ended")
        assert len(made.ended) == 2
        assert not (tmp_path / "archive-1.log").exists()
        assert len(list(tmp_path.iterdir())) <= 3, "of two that ended, and of one that runs"
    starts = [at_s for at_s, line in said if "starts" in line]
    ends = [at_s for at_s, line in said if "ended with 1: error: NATS_URL" in line]
    pauses = [start - end for start, end in zip(starts[1:], ends, strict=False)]
    assert len(pauses) >= 3
    assert all(pause >= POLL_S * 2**number for number, pause in enumerate(pauses, start=1)), pauses
