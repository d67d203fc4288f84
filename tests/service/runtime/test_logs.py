"""What recurs is logged when it begins, and then as a count."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import pytest

from local.process import ROOT
from service.runtime.logs import MAX_KINDS, REPEAT_S, Repeated


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, message: str, **fields: Any) -> None:
        self.lines.append((message, fields))

    error = warning


def test_each_kind_is_logged_once_and_then_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = Log()
    repeated = Repeated(log, "it failed")
    for _ in range(1000):
        repeated.error("a", error="x")
        repeated.warning("b")
    assert log.lines == [("it failed", {"error": "x"}), ("it failed", {})]
    now += REPEAT_S
    repeated.error("a", error="y")
    assert log.lines[2:] == [("it failed", {"error": "y", "times": 1000})]


def test_kinds_are_bounded() -> None:
    log = Log()
    repeated = Repeated(log, "it failed")
    for number in range(10 * MAX_KINDS):
        repeated.error(str(number))
    assert len(log.lines) == MAX_KINDS + 1


NOT_SET: Final = ("DDB_TABLE is not set", "set it, for example DDB_TABLE=balances")


def ran(code: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """The service without a table; or some lines of Python after its logs were set up."""
    command = ["-c", code] if code else ["-m", "service"]
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("env", [{}, {"LOG_FORMAT": "json"}, {"LOG_FORMAT": "JSON"}, {"LOG_FORMAT": "xml"}])
def test_the_last_line_is_a_record_where_the_log_is_of_records(env: dict[str, str]) -> None:
    ended = ran(**env)
    assert ended.returncode == 1
    record = json.loads(ended.stderr)
    assert (record["event"], record["level"]) == ("ended", "error")
    assert record["timestamp"].endswith("Z")
    if env.get("LOG_FORMAT") != "xml":
        assert (record["problem"], record["remedy"]) == NOT_SET


def test_the_last_line_is_plain_on_a_console() -> None:
    ended = ran(LOG_FORMAT="console")
    assert ended.stderr == f"error: {'; '.join(NOT_SET)}\n"


def test_a_traceback_is_inside_its_record() -> None:
    """What nobody caught, and what asyncio says of a task that nobody awaited."""
    code = """if True:
        import asyncio, gc
        from service import __main__
        class Role:
            SETTINGS = __main__.Settings
            def __init__(self, *_): pass
        async def run(*_):
            async def fail(): raise ValueError("in a task")
            task = asyncio.create_task(fail())
            await asyncio.sleep(0.01)
            del task
            gc.collect()
            raise KeyError("nobody caught it")
        __main__.pkgutil.resolve_name = lambda _: Role
        __main__.run = run
        raise SystemExit(__main__.main())
    """
    ended = ran(code, LOG_FORMAT="json")
    assert ended.returncode == 1
    unretrieved, crashed = (json.loads(line) for line in ended.stderr.splitlines())
    assert "ValueError: in a task" in unretrieved["exception"]
    assert (crashed["event"], crashed["level"]) == ("crashed", "critical")
    assert "Traceback" in crashed["exception"]
    assert "nobody caught it" in crashed["exception"]
