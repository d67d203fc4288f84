"""A plan, as a person or a script reads it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from control_plane.reconcile import Plan, Step


def describe(step: Step) -> str:
    drift = ", ".join(f"{d.field} {_short(d.actual)} -> {_short(d.wanted)}" for d in step.differences)
    return escape(f"{step.resource}: {drift}" if drift else step.resource)


def _short(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def print_status(console: Console, planned: Plan) -> None:
    table = Table("resource", "state", "wanted", "there", box=None, pad_edge=False)
    states = {"keep": "[green]as wanted[/]", "create": "[red]missing[/]", "change": "[red]drifted[/]"}
    for step in planned.steps:
        table.add_row(escape(step.resource), states[step.action], "", "")
        for difference in step.differences:
            wanted, actual = escape(_short(difference.wanted)), escape(_short(difference.actual))
            table.add_row(f"  {difference.field}", "[red]*[/]", wanted, actual)
    console.print(table)
    for remark in planned.remarks:
        console.print(f"[yellow]note[/]  {escape(remark)}")


def as_json(planned: Plan) -> dict[str, Any]:
    states = {"keep": "as wanted", "create": "missing", "change": "drifted"}
    return {
        "account": planned.name,
        "id": planned.account,
        "as_wanted": not planned.changes,
        "remarks": list(planned.remarks),
        "resources": [
            {
                "resource": step.resource,
                "state": states[step.action],
                "differences": [vars(difference) for difference in step.differences],
            }
            for step in planned.steps
        ],
    }
