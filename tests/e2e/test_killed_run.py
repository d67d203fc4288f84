"""A test run that is ended by a signal leaves no server behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Final

import psutil
import pytest

from local.process import ROOT
from tests.support.processes import family
from tests.support.world import eventually

SLOW: Final = "tests/service/customer/store/test_seeding.py::test_a_renewed_lease_is_respected"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider",
        f"--basetemp={tmp_path / 'run'}", SLOW,
        cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    there: list[psutil.Process] = []

    def servers_run() -> bool:
        found = family(process.pid)
        there[:] = [child for child, _ in found]
        return all(any(name in command for _, command in found) for name in ("nats-server", "dynoxide"))

    try:
        await eventually(servers_run, within_s=30, what="nats-server and the engine")
        process.send_signal(number)
        await process.wait()
        await eventually(lambda: not any(each.is_running() for each in there), within_s=10, what="an end of them all")
    finally:
        for each in there:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
