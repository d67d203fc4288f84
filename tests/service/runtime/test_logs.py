"""What recurs is logged when it begins, and then as a count."""

from __future__ import annotations

from typing import Any

import pytest

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
