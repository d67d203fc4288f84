"""Print a plan for a person or a script: drift in full, the rest in short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from control_plane.plan import Plan, Step
from control_plane.settings import NANOSECONDS, Difference

WIDTH: Final = 80
_STATES: Final = {"keep": "as wanted", "create": "missing", "change": "drifted"}
_DURATIONS: Final = frozenset({"max_age", "duplicate_window", "ack_wait", "inactive_threshold", "resp.ttl"})


def describe(step: Step) -> str:
    drift = ", ".join(f"{d.field} {_value(d, d.actual)} -> {_value(d, d.wanted)}" for d in step.differences)
    return escape(f"{step.resource}: {drift}" if drift else step.resource)


def print_status(console: Console, planned: Plan) -> None:
    for step in planned.steps:
        colour = "green" if step.action == "keep" else "red"
        console.print(f"[{colour}]{_STATES[step.action]:9}[/]  {escape(step.resource)}")
        for line in (line for difference in step.differences for line in _lines(difference)):
            console.print(escape(line))
    for remark in planned.remarks:
        console.print(f"[yellow]note[/]       {escape(remark)}")


def as_json(planned: Plan) -> dict[str, Any]:
    return {
        "account": planned.name,
        "id": planned.account,
        "as_wanted": not planned.changes,
        "remarks": list(planned.remarks),
        "resources": [
            {
                "resource": step.resource,
                "state": _STATES[step.action],
                "differences": [vars(difference) for difference in step.differences],
            }
            for step in planned.steps
        ],
    }


def _lines(difference: Difference) -> Iterator[str]:
    """Yield one line if it fits; else the wanted value above the actual one, with one line per list entry."""
    wanted, actual = (_value(difference, value) for value in (difference.wanted, difference.actual))
    line = f"  * {difference.field}  wanted {wanted}, there {actual}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"  * {difference.field}"
    for name, value in (("wanted", difference.wanted), ("there", difference.actual)):
        entries = value if isinstance(value, list) and value else [_value(difference, value)]
        yield from (f"    {name if number == 0 else '':6}  {entry}" for number, entry in enumerate(entries))


def _value(difference: Difference, value: Any) -> str:
    if value in (None, "", []):
        return "none"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if difference.field in _DURATIONS and isinstance(value, int):
        return f"{value / NANOSECONDS:g} s"
    return str(value)
