"""What a demonstration checked, shown at its end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from local.process import LocalError


def show(console: Console, checks: Sequence[tuple[bool, str]]) -> None:
    """Print each check: whether it passed, and what. Raise `LocalError` when one failed."""
    console.print("\n[bold]What was checked[/]")
    for passed, what in checks:
        console.print(f"  [green]ok[/]      {escape(what)}" if passed else f"  [red]FAILED[/]  {escape(what)}")
    if failed := sum(not passed for passed, _ in checks):
        raise LocalError(f"{failed} of {len(checks)} checks failed")
    console.print(f"[bold green]all {len(checks)} checks passed[/]")
