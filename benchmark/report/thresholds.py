"""Thresholds for CI: `--fail-if p99>50ms` fails a run with a p99 above 50 ms."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import durationpy

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import ENDPOINTS, Mix

DURATIONS: Final = ("mean", "p50", "p90", "p95", "p99", "p99.9", "max")
RUN: Final = ("throughput", *DURATIONS, "errors", "error_rate", "timeouts")
SWEEP: Final = ("best", "throughput")
COST: Final = (
    "cpu_over_peer", "both_cpu_over_peer", "of_peer", "p50_over_peer", "cpu_over_echo", "cpu_over_untraced",
    "cpu_over_regular", "over_plain", "memory", "memory_growth", "cpu_over_rows",
    "create_of_insert", "adjust_of_transactions", "adjust_one_client", "adjust_cpu_over_create",
    "balance_beside_adjust", "queue_of_pull",
    "queue_short_of_pull", "queue_delete_of_empty", "queue_receive_of_empty", "queue_memory", "queue_growth",
    "archive_of_writes", "archive_cpu_over_plain", "archive_slow_busy", "load_of_writes",
    "devices_cpu_over_bare", "devices_cpu_over_writing", "devices_of_writing", "devices_memory", "devices_growth",
    "devices_connection",
)  # fmt: skip
_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_THRESHOLD: Final = re.compile(r"\s*([a-z0-9_.]+)\s*(>=|<=|>|<)\s*([0-9.]+)\s*(%|[a-zµ0-9.]*)\s*")


@dataclass(frozen=True)
class Threshold:
    """Fails a result whose figure is beyond the bound. Durations are in milliseconds."""

    text: str
    figure: str
    fails: Callable[[float, float], bool]
    bound: float

    def verdict(self, figures: Mapping[str, float]) -> str | None:
        """Return what failed; None if the threshold holds."""
        value = figures.get(self.figure)
        if value is None:
            return f"{self.text}: it was left out"
        unit = " ms" if _is_duration(self.figure) else ""
        return f"{self.text}: it is {value:,.3f}{unit}" if self.fails(value, self.bound) else None


def run_figures(mix: Mix) -> Sequence[str]:
    """Return the names of a run's figures; with several endpoints, also each one's: `get.p99`."""
    each = [f"{name}.{figure}" for name in mix for figure in (*DURATIONS, "errors")] if len(mix) > 1 else []
    return [*RUN, *each]


def parse(text: str, figures: Sequence[str]) -> Threshold:
    """Parse `FIGURE>BOUND`, also `>=`, `<`, `<=`. A duration's bound needs a unit (`50ms`), a share may be in `%`.

    Raises `BenchmarkError` for anything else.
    """
    found = _THRESHOLD.fullmatch(text)
    if found is None:
        raise BenchmarkError(f"--fail-if {text!r} is not FIGURE>BOUND, for example p99>50ms or errors>0")
    figure, comparison, number, unit = found.groups()
    if figure not in figures:
        raise BenchmarkError(f"--fail-if {text}: no figure {figure}; there are {', '.join(figures)}")
    try:
        bound = _bound(figure, number, unit)
    except (ValueError, durationpy.DurationError):
        example = f"{figure}>50ms" if _is_duration(figure) else f"{figure}>0"
        raise BenchmarkError(f"--fail-if {text!r}: {number}{unit} is not a bound for {figure}; try {example}") from None
    return Threshold(text.strip(), figure, _OPERATORS[comparison], bound)


def _bound(figure: str, number: str, unit: str) -> float:
    if _is_duration(figure):
        return float(durationpy.from_str(number + (unit or "?")).total_seconds()) * 1000
    return float(number + unit.removesuffix("%")) / (100 if unit == "%" else 1)


def _is_duration(figure: str) -> bool:
    endpoint, _, name = figure.partition(".")
    return (name if endpoint in ENDPOINTS else figure) in DURATIONS


def duration_s(text: str, option: str, *, or_zero: bool = False) -> float:
    """Parse `5s`, `250ms` or `1m30s`; return seconds.

    Raises `BenchmarkError` with the option's name.
    """
    if or_zero and text in {"0", "0s"}:
        return 0.0
    try:
        seconds: float = durationpy.from_str(text).total_seconds()
    except durationpy.DurationError:
        seconds = 0.0
    if seconds <= 0:
        raise BenchmarkError(f"{option} {text!r} is not a duration; write 5s, 250ms or 1m30s")
    return seconds
