"""A plugin of pytest that `make unit` loads: a test that starts a program or a server is skipped when it does, so no
list of tests goes stale. What is left needs no server, no Docker and no browser.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Generator
from importlib.abc import MetaPathFinder
from typing import Any, Final

import pytest

_REASON: Final = "starts a program or a server"
_FIXTURES: Final = {"servers", "moto"}
"""Fixtures that start a program for a whole session: to find out for each of their tests takes longest."""
_SLEEP: Final = asyncio.sleep
_started: Final[list[bool]] = []
"""Not empty: the current test has tried to start one."""


class _WithoutNode(MetaPathFinder):
    """Skip a file that imports the CDK: the import starts Node."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "jsii":
            _skip()


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    starts_workers = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not starts_workers:
        subprocess.Popen.__init__ = _skip  # type: ignore[method-assign]
        socket.socket.listen = _serve  # type: ignore[assignment, method-assign]
        asyncio.sleep = _sleep
        sys.meta_path.insert(0, _WithoutNode())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _FIXTURES & {*getattr(item, "fixturenames", ())}]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skip also a test that catches the skip, and then fails without it."""
    report = yield
    if report.failed and _started:
        report.outcome, report.longrepr = "skipped", (__file__, 0, f"Skipped: {_REASON}")
    if call.when == "teardown":
        _started.clear()
    return report


async def _sleep(delay: float, result: Any = None) -> Any:
    """Skip also a test that waits for what it has tried to start."""
    if _started:
        _skip()
    return await _SLEEP(delay, result)


def _serve(listening: socket.socket, *_: Any) -> None:
    listening.close()
    _skip()


def _skip(*_: Any, **__: Any) -> None:
    _started.append(True)
    pytest.skip(_REASON, allow_module_level=True)
