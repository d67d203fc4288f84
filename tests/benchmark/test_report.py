"""The report: one page that needs nothing else, opened in a real browser."""

from __future__ import annotations

import asyncio
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import BenchmarkError
from benchmark.load.job import Done, Tick
from benchmark.load.latency import encoded, new_histogram
from benchmark.load.totals import Totals
from benchmark.report.page import write_report
from benchmark.report.result import (
    CostResult,
    CostRow,
    Machine,
    Requirement,
    Result,
    RunResult,
    ScaleRow,
    SweepResult,
    SweepStep,
    TaskShare,
)
from tests.support.browser import browser

STARTED = "2026-01-01T00:00:00+00:00"
HOSTILE = "<script>document.title='owned'</script>"


def run_result() -> RunResult:
    totals = Totals()
    for second in range(5):
        histogram = new_histogram()
        for microseconds in range(100, 10_000, 10):
            histogram.record_value(microseconds * (second + 1))
        count = histogram.get_total_count()
        totals.add(
            0,
            Tick(
                at=second + 0.5, sent=count + 1, last_active=second + 1.0, last_done=second + 1.0,
                done={"balance": Done(replies=count, errors={HOSTILE: 1}, histogram=encoded(histogram))},
            ),
        )  # fmt: skip
    totals.finish()
    task = TaskShare(id="LgZ2jSZxg3ihCu9NmUfwW1", requests=4955, errors=5, processing_ms=1.25)
    return RunResult.of(totals, {"target": HOSTILE}, [task], STARTED)


def sweep_result() -> SweepResult:
    measured = run_result().measured
    steps = [SweepStep(load=load, measured=measured) for load in (1000.0, 2000.0, 4000.0)]
    return SweepResult(
        started_at=STARTED, machine=Machine.this(), settings={"step": "5s"}, over="rate", target_p99_ms=50, steps=steps,
        best=2000.0,
    )  # fmt: skip


def cost_result() -> CostResult:
    rows = [
        CostRow(
            program=program, concurrency=concurrency, throughput=20_000, p50_ms=1, p99_ms=2, server_cpu_us=25,
            nats_cpu_us=10, memory_mib=69,
        )
        for concurrency in (1, 500)
        for program in ("echo", "service", "baseline")
    ]  # fmt: skip
    claim = Requirement(name="of_peer", text="of the echo's", figure=0.8, bound=0.75, at_least=True, unit="")
    scale = [ScaleRow(of="tasks", size=1, throughput=20_000, p99_ms=3, server_cpu_us=25)]
    return CostResult(
        started_at=STARTED, machine=Machine.this(), settings={}, rows=rows, scale=scale, memory=[(1000, 69.0)],
        claims=[claim],
    )  # fmt: skip


RESULTS = [
    pytest.param(run_result, 3, ["Latency distribution", "Throughput over time", "LgZ2jSZx"], id="run"),
    pytest.param(sweep_result, 2, ["Throughput over load", "2,000 requests/s", "4,000/s"], id="sweep"),
    pytest.param(cost_result, 2, ["CPU of a request", "at least 0.75", "69.0 MiB"], id="cost"),
]


@pytest.mark.parametrize(("make", "charts", "words"), RESULTS)
async def test_a_browser_shows_it(make: Callable[[], Result], charts: int, words: list[str], tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    write_report(make(), page)
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--window-size=1100,1900",
    ]  # fmt: skip

    def browse(*options: str) -> str:
        done = subprocess.run(
            [*command, *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    shown = await asyncio.to_thread(browse, "--dump-dom")
    assert "<title>owned</title>" not in shown
    assert shown.count("<svg") == 2 * charts, "one for a wide window, one for a narrow one"
    assert all(word in re.sub(r"<[^>]+>", "", shown) for word in words)
    await asyncio.to_thread(browse, f"--screenshot={picture}")
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1100, 1900)
    assert picture.stat().st_size > 30_000, "an empty page is a few kilobytes"


SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('figure text')]
    .filter(text => text.textContent.trim() && text.getClientRects().length && getComputedStyle(text).opacity > 0)
    .map(text => parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a))"""


async def test_it_is_readable_on_a_phone(tmp_path: Path) -> None:
    makers: list[Callable[[], Result]] = [run_result, sweep_result, cost_result]
    async with browser() as tab:
        for number, make in enumerate(makers):
            page = tmp_path / f"{number}.html"
            write_report(make(), page)
            for width in (400, 1100):
                await tab.open(page.as_uri(), width=width)
                assert await tab.run("document.documentElement.scrollWidth") == width, "it scrolls sideways"
                assert await tab.run(SMALLEST_TEXT) > 9


@pytest.mark.parametrize(("make", "charts", "words"), RESULTS)
def test_it_needs_nothing_else(make: Callable[[], Result], charts: int, words: list[str], tmp_path: Path) -> None:
    page = tmp_path / "new" / "report.html"
    write_report(make(), page)
    text = page.read_text()
    assert HOSTILE not in text
    assert not re.findall(r"""\b(?:src|href)\s*=\s*["'](?!#)""", text)
    assert not re.findall(r"@import|url\((?!#)", text)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="cannot be written"):
        write_report(run_result(), tmp_path / "file" / "report.html")
