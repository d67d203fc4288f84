"""Show progress and results in a terminal: a live line while a load runs, tables when it is done."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.load.job import Closed, Loop
from benchmark.load.totals import Totals
from benchmark.report.result import Result
from benchmark.report.tables import Grid, comparison, grids, remarks

PLAIN_S: Final = 2.0
"""Seconds between two lines when there is no terminal."""
_STYLES: Final = {"ok": "green", "NO": "red"}


class Progress:
    """Shows progress on stderr: one line, rewritten, on a terminal; elsewhere a new line every two seconds."""

    def __init__(self, console: Console, label: str = "") -> None:
        self._console = console
        self._label = f"{label}  " if label else ""
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, totals: Totals, loop: Loop) -> None:
        if self._live:
            self._live.update(Text(self._label + self._line(totals, loop)))
        elif time.monotonic() - self._printed >= PLAIN_S:
            self._printed = time.monotonic()
            self._console.print(self._label + self._line(totals, loop))

    @staticmethod
    def _line(totals: Totals, loop: Loop) -> str:
        elapsed_s = max(1e-9, time.monotonic() - totals.started_at)
        if isinstance(loop, Closed) and not loop.duration_s:
            share = f"{totals.done / loop.requests:.0%}"
        else:
            share = f"{min(1.0, elapsed_s / (loop.duration_s or elapsed_s)):.0%}"
        p50, p99 = (totals.histogram.get_value_at_percentile(p) / 1000 for p in (50, 99))
        return (
            f"{share:>4}  {totals.done:>9,} done  {totals.replies / elapsed_s:>8,.0f}/s  "
            f"{totals.in_flight:>6,} in flight  p50 {p50:.2f} ms  p99 {p99:.2f} ms  {totals.errors.total():,} errors"
        )


def show(console: Console, result: Result) -> None:
    for grid in grids(result):
        console.print(_table(grid), "")
    for remark in remarks(result):
        console.print(remark)


def show_comparison(console: Console, old: Result, new: Result, name: str) -> None:
    console.print("", _table(comparison(old, new, name)))


def _table(grid: Grid) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(grid.columns):
        table.add_column(column, justify="left" if number < grid.left else "right", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table
