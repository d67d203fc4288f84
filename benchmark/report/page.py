"""Write the report: one self-contained page with a result's tables and charts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import jinja2
import pygal
from pygal.style import Style

from benchmark.errors import BenchmarkError
from benchmark.report.result import CostResult, Result, RunResult, SweepResult
from benchmark.report.tables import grids, remarks

_TITLES: Final = {"run": "One load", "sweep": "A sweep to the limit", "cost": "What one request costs"}
_STYLE: Final = Style(
    background="transparent", plot_background="transparent", font_family="system-ui, sans-serif",
    colors=("#2563eb", "#dc2626", "#059669", "#d97706"), label_font_size=13, major_label_font_size=13,
    title_font_size=16, legend_font_size=13, stroke_width=2.5,
)  # fmt: skip
WIDE: Final = {"width": 1000, "height": 420}
NARROW: Final = {"width": 400, "height": 360, "x_label_rotation": 30}
_TAIL: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def write_report(result: Result, path: Path) -> None:
    """Write the page. Raises `BenchmarkError` if the file cannot be written."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(
        title=_TITLES[result.kind],
        result=result,
        grids=grids(result),
        remarks=list(remarks(result)),
        charts=list(zip(_drawn(result, WIDE), _drawn(result, NARROW), strict=True)),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be written ({error.strerror})") from None


def _drawn(result: Result, size: Mapping[str, int]) -> Iterator[str]:
    """Draw each chart at one size, so that its text is readable without scaling."""
    for chart in _charts(result):
        chart.config(**size)
        yield chart.render(is_unicode=True, disable_xml_declaration=True)


def _charts(result: Result) -> Iterator[pygal.Graph]:
    if isinstance(result, RunResult):
        yield _distribution(result)
        whole = [point for point in result.timeline if point.at_s + 1 <= result.measured.elapsed_s] or result.timeline
        seconds = [point.at_s for point in whole]
        replies = [float(point.replies) for point in whole]
        errors = [float(point.errors) for point in whole]
        p99 = [point.p99_ms for point in whole]
        yield _curves("Throughput over time", "second", "requests/s", seconds, {"replies": replies, "errors": errors})
        yield _curves("p99 over time", "second", "ms", seconds, {"p99": p99})
    elif isinstance(result, SweepResult):
        load = "requests/s asked" if result.over == "rate" else "requests in flight"
        loads = [step.load for step in result.steps]
        throughput = [step.measured.throughput for step in result.steps]
        p50 = [step.measured.latency.p50_ms for step in result.steps]
        p99 = [step.measured.latency.p99_ms for step in result.steps]
        yield _curves("Throughput over load", load, "requests/s", loads, {"throughput": throughput})
        yield _curves("Latency over load", load, "ms", loads, {"p50": p50, "p99": p99})
    else:
        yield from _bars(result)


def _distribution(result: RunResult) -> pygal.Graph:
    """Draw latency by percentile, on an axis where each further nine takes the same space."""
    chart = _xy("Latency distribution", "percentile", "ms")
    chart.x_labels = [{"value": _nines(percentile), "label": f"{percentile:g} %"} for percentile in _TAIL]
    chart.add("latency", [(_nines(percentile), ms) for percentile, ms in result.curve if percentile < 100])
    return chart


def _nines(percentile: float) -> float:
    """Count the nines: 1 for 90 %, 2 for 99 %."""
    return math.log10(100 / (100 - percentile))


def _curves(
    title: str, x_title: str, y_title: str, xs: Sequence[float], lines: dict[str, Sequence[float]]
) -> pygal.Graph:
    chart = _xy(title, x_title, y_title)
    for name, ys in lines.items():
        chart.add(name, list(zip(xs, ys, strict=True)))
    return chart


def _xy(title: str, x_title: str, y_title: str) -> pygal.Graph:
    return pygal.XY(
        style=_STYLE, js=(), title=title, x_title=x_title, y_title=y_title,
        legend_at_bottom=True, include_x_axis=True, dots_size=2.5, truncate_legend=-1,
        value_formatter=lambda value: f"{value:,.6g}", x_value_formatter=lambda value: f"{value:,.6g}",
    )  # fmt: skip


def _bars(result: CostResult) -> Iterator[pygal.Graph]:
    concurrencies = sorted({row.concurrency for row in result.rows})
    programs = list(dict.fromkeys(row.program for row in result.rows))
    for title, unit, field in (
        ("Throughput", "requests/s", "throughput"),
        ("CPU of a request, of the server program", "µs", "server_cpu_us"),
    ):
        chart = pygal.Bar(
            style=_STYLE, js=(), title=title, x_title="requests in flight", y_title=unit,
            legend_at_bottom=True, value_formatter=lambda value: f"{value:,.0f}",
        )  # fmt: skip
        chart.x_labels = [f"{concurrency:,}" for concurrency in concurrencies]
        for program in programs:
            figures = {row.concurrency: getattr(row, field) for row in result.rows if row.program == program}
            chart.add(program, [figures.get(concurrency) for concurrency in concurrencies])
        yield chart
