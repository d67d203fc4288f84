"""Format a result as text tables, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmark.load.endpoints import BALANCE, GET, WRONG_BALANCE
from benchmark.report.measured import Latency, Measured
from benchmark.report.result import CHECKED, CostResult, Result, RunResult, SweepResult


@dataclass(frozen=True)
class Grid:
    """A table: its first `left` columns are text, the others are figures."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 0


def grids(result: Result) -> list[Grid]:
    if isinstance(result, RunResult):
        return list(_run(result))
    return [_sweep(result)] if isinstance(result, SweepResult) else list(_cost(result))


def remarks(result: Result) -> Iterator[str]:
    """Yield what a reader must know in addition to the figures."""
    if isinstance(result, SweepResult):
        yield _found(result)
    if isinstance(result, CostResult) and result.memory:
        after = ", ".join(f"{mib:.1f} MiB after {requests:,}" for requests, mib in result.memory)
        yield f"Memory of one task: {after} requests."
    if isinstance(result, CostResult):
        share = max(row.load_cpu_us * row.throughput for row in result.rows) / 1e6 / result.machine.cores
        yield f"The generator took at most {share:.0%} of this machine's CPU. Python {result.machine.python}."
        if result.left_out:
            yield f"The Go peer was left out: {result.left_out}."
    if isinstance(result, RunResult):
        yield from _limits(result.measured)
        if result.settings.get(CHECKED) == "yes":
            wrong = result.measured.errors.get(WRONG_BALANCE, 0)
            right = sum(each.replies for each in result.measured.endpoints if each.name in {BALANCE, GET})
            yield f"Compared with the table: {right:,} balances right, {wrong:,} wrong."


def _found(result: SweepResult) -> str:
    """Say which load was the highest, and whether that is the service's limit."""
    p99, is_rate = f"{result.target_p99_ms:g} ms", result.over == "rate"
    if result.interrupted:
        return "Interrupted: the highest load was not found."
    undecided = (
        "The generators were the limit above it, so this is not the service's: give more --processes, or more cores."
    )
    if result.best is None:
        option = "--rates 100,200,500" if is_rate else "--concurrencies 1,2,5"
        lower = f"No step kept p99 under {p99}: begin lower, for example {option}."
        return f"{lower} The generators were the limit, too: give more cores." if is_limited(result) else lower
    highest = (
        f"The highest {'rate' if is_rate else 'concurrency'} with p99 under {p99}: "
        f"{result.best:,.0f} {'requests/s' if is_rate else 'requests in flight'}."
    )
    return f"{highest} {undecided}" if is_limited(result) else highest


def is_limited(result: SweepResult) -> bool:
    """Return whether the generators, not the service, were the limit at the lowest load that was not handled."""
    above = [step for step in result.steps if result.best is None or step.load > result.best]
    return bool(above) and min(above, key=lambda step: step.load).measured.at_generators_limit


def comparison(old: Result, new: Result, name: str) -> Grid:
    """Return the figures that both results have, with their ratios."""
    before, after = old.figures(), new.figures()
    both = [(figure, was, after[figure]) for figure, was in before.items() if figure in after]
    return Grid(
        ("figure", name, "now", "ratio"),
        [(figure, f"{was:,.2f}", f"{now:,.2f}", f"{now / was:.2f}" if was else "-") for figure, was, now in both],
        left=1,
    )


def _run(result: RunResult) -> Iterator[Grid]:
    measured, latency = result.measured, result.measured.latency
    yield Grid(("throughput", *latency.figures()), [(f"{measured.throughput:,.0f}/s", *_times(latency))])
    if len(measured.endpoints) > 1:
        rows = [
            (each.name, f"{each.replies:,}", f"{sum(each.errors.values()):,}", *_times(each.latency))
            for each in measured.endpoints
        ]
        yield Grid(("endpoint", "replies", "errors", *latency.figures()), rows, left=1)
    wrong = sorted(measured.errors.items(), key=lambda pair: -pair[1])
    if wrong:
        yield Grid(("error", "requests"), [(kind, f"{count:,}") for kind, count in wrong], left=1)
    if result.tasks:
        shares = [(task.id, f"{task.requests:,}", f"{task.errors:,}", _ms(task.processing_ms)) for task in result.tasks]
        yield Grid(("task", "requests", "errors", "processing, mean"), shares, left=1)


def _limits(measured: Measured) -> Iterator[str]:
    limit = measured.generators.limit(measured.requests)
    if limit:
        yield f"The generators were the limit: {limit}; give more --processes, or more cores."
    if measured.interrupted:
        yield "Interrupted: this is what was measured until then."


def _sweep(result: SweepResult) -> Grid:
    unit = "/s" if result.over == "rate" else ""
    rows = []
    for step in result.steps:
        measured, latency = step.measured, step.measured.latency
        rows.append(
            (
                f"{step.load:,.0f}{unit}", f"{measured.throughput:,.0f}/s", _ms(latency.p50_ms), _ms(latency.p95_ms),
                _ms(latency.p99_ms), _ms(latency.max_ms), f"{measured.failed:,}", "; ".join(_limits(measured)),
            )
        )  # fmt: skip
    return Grid(("rate" if unit else "in flight", "throughput", "p50", "p95", "p99", "max", "errors", ""), rows)


def _cost(result: CostResult) -> Iterator[Grid]:
    yield Grid(
        ("program", "in flight", "throughput", "p50", "p99", "CPU", "nats CPU", "load CPU", "memory"),
        [
            (
                row.program, f"{row.concurrency:,}", f"{row.throughput:,.0f}/s", _ms(row.p50_ms), _ms(row.p99_ms),
                f"{row.server_cpu_us:,.1f} µs", f"{row.nats_cpu_us:,.1f} µs", f"{row.load_cpu_us:,.1f} µs",
                f"{row.memory_mib:.0f} MiB",
            )
            for row in result.rows
        ],
        left=1,
    )  # fmt: skip
    sizes = [
        (
            f"{size.size:,} {size.of if size.size > 1 else size.of.removesuffix('s')}", f"{size.throughput:,.0f}/s",
            _ms(size.p99_ms), f"{size.server_cpu_us:,.0f} µs",
        )
        for size in result.scale
    ]  # fmt: skip
    yield Grid(("the service with", "throughput", "p99", "CPU"), sizes, left=1)
    claims = [
        (
            claim.text,
            f"{'at least' if claim.at_least else 'at most'} {claim.bound:g}{claim.unit}",
            "-" if claim.figure is None else f"{claim.figure:.2f}{claim.unit}",
            "left out" if claim.figure is None else "ok" if claim.holds else "NO",
        )
        for claim in result.claims
    ]
    yield Grid(("figure", "must be", "is", ""), claims, left=1)


def _times(latency: Latency) -> Iterator[str]:
    return map(_ms, latency.figures().values())


def _ms(ms: float) -> str:
    return f"{ms:,.2f} ms"
