"""What is made of the counts: statistics, the original's line, bounds, sweeps, files."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import draws, parse_mix
from benchmark.load.ids import client_ids
from benchmark.load.job import Closed, Done, Job, Loop, NatsTarget, Open, Tick
from benchmark.load.latency import encoded, new_histogram
from benchmark.load.totals import Totals
from benchmark.report import result as results
from benchmark.report.measured import Generators, Latency, Measured
from benchmark.report.result import Machine, RunResult, SweepResult
from benchmark.report.summary_line import go_duration, summary_line
from benchmark.report.tables import comparison
from benchmark.report.thresholds import RUN, duration_s, parse, run_figures
from benchmark.sweep import sweep


def tick(values_us: list[int], at: float = 0.0) -> Tick:
    histogram = new_histogram()
    for value in values_us:
        histogram.record_value(value)
    done = Done(replies=len(values_us), histogram=encoded(histogram))
    return Tick(at=at, sent=len(values_us), done={"balance": done}, last_active=at, last_done=at)


def test_a_known_distribution() -> None:
    totals = Totals()
    totals.add(0, tick(list(range(1, 100_001))))
    latency = Latency.of(totals.histogram)
    assert latency.mean_ms == pytest.approx(50.0, rel=0.002)
    figures = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p99_9_ms, latency.max_ms)
    assert figures == pytest.approx((50, 90, 99, 99.9, 100), rel=0.002)


def test_two_generators_histograms_are_one() -> None:
    draw = random.Random(7)
    fast = [max(1, round(draw.expovariate(1 / 900))) for _ in range(20_000)]
    slow = [50_000 + round(draw.expovariate(1 / 20_000)) for _ in range(500)]
    apart, together = Totals(), Totals()
    apart.add(0, tick(fast, at=0.5))
    apart.add(1, tick(slow, at=0.6))
    together.add(0, tick([*fast, *slow]))
    assert Latency.of(apart.histogram) == Latency.of(together.histogram)
    assert (apart.sent, apart.replies) == (20_500, 20_500)
    exact = sorted([*fast, *slow])
    for percentile, figure in ((50, Latency.of(apart.histogram).p50_ms), (99, Latency.of(apart.histogram).p99_ms)):
        assert figure * 1000 == pytest.approx(exact[len(exact) * percentile // 100 - 1], rel=0.01)


def test_the_timeline_has_every_second_even_an_empty_one() -> None:
    totals = Totals()
    totals.add(0, tick([1000] * 10, at=0.9))
    totals.add(1, tick([2000] * 5, at=0.95))
    totals.add(0, tick([3000] * 7, at=3.2))
    totals.finish()
    assert [(second.at_s, second.replies) for second in totals.timeline] == [(0, 15), (1, 0), (2, 0), (3, 7)]


def test_the_originals_summary_line_without_its_average() -> None:
    assert summary_line(1000, 1000, 5.0, 2.050677375) == (
        "Total of 1000 requests, with max concurrency 1000, and request timeout 5s, completed in 2.050677375s"
    )


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1µs"),
        (2_200_000, "2.2ms"),
        (3_300_000_000, "3.3s"),
        (999_999_999, "999.999999ms"),
        (5_000_000_000, "5s"),
        (245_000_000_000, "4m5s"),
        (245_001_000_000, "4m5.001s"),
        (5 * 3600_000_000_000 + 367_001_000_000, "5h6m7.001s"),
        (3600_000_000_000, "1h0m0s"),
        (480_000_000_001, "8m0.000000001s"),
    ],
)
def test_durations_as_go_writes_them(ns: int, text: str) -> None:
    """The cases of Go's own test, https://go.dev/src/time/time_test.go."""
    assert go_duration(ns) == text


@pytest.mark.parametrize(
    ("text", "figures", "fails"),
    [
        ("p99>50ms", {"p99": 50.1}, True),
        ("p99>50ms", {"p99": 50.0}, False),
        ("p99.9 >= 1.5s", {"p99.9": 1500.0}, True),
        ("errors>0", {"errors": 1.0}, True),
        ("errors>0", {"errors": 0.0}, False),
        ("error_rate>1%", {"error_rate": 0.02}, True),
        ("throughput<1000", {"throughput": 999.0}, True),
        ("throughput<=1000", {"throughput": 1000.0}, True),
    ],
)
def test_gates(text: str, figures: dict[str, float], fails: bool) -> None:
    assert (parse(text, list(figures)).verdict(figures) is not None) is fails


@pytest.mark.parametrize("text", ["p99", "p99>50", "p99>fast", ">5", "errors>1ms", "p99=5ms", "p99>5parsecs"])
def test_an_invalid_threshold_is_refused(text: str) -> None:
    with pytest.raises(BenchmarkError, match="--fail-if"):
        parse(text, RUN)


def test_a_gate_on_a_figure_that_is_not_there() -> None:
    with pytest.raises(BenchmarkError, match="no figure speed; there are p99"):
        parse("speed>1", ["p99"])


@pytest.mark.parametrize("text", ["", "5", "0s", "-1s", "soon"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(BenchmarkError, match="--timeout"):
        duration_s(text, "--timeout")


def test_a_zipf_draw_is_skewed_and_repeatable() -> None:
    def first(count: int, zipf: float | None) -> list[str]:
        job = Job(
            target=NatsTarget(servers=[]), loop=Closed(requests=1, concurrency=1), timeout_s=1,
            ids=1000, zipf=zipf,
        )  # fmt: skip
        ids = client_ids(job)
        return [next(ids) for _ in range(count)]

    drawn = first(20_000, 1.0)
    harmonic = sum(1 / number for number in range(1, 1001))
    assert drawn.count("1") / 20_000 == pytest.approx(1 / harmonic, rel=0.1)
    assert drawn.count("10") / 20_000 == pytest.approx(0.1 / harmonic, rel=0.3)
    assert drawn == first(20_000, 1.0)
    assert first(3, None) == ["1", "2", "3"]


def measured(rate: float, p99_ms: float, errors: int = 0, seconds: float = 1.0) -> Measured:
    latency = Latency(
        mean_ms=1, p50_ms=p99_ms / 2, p90_ms=p99_ms, p95_ms=p99_ms, p99_ms=p99_ms, p99_9_ms=p99_ms, max_ms=p99_ms
    )
    return Measured(
        requests=round(rate * seconds) + errors, replies=round(rate * seconds), elapsed_s=seconds,
        errors={"timeout": errors} if errors else {}, latency=latency, interrupted=False,
        generators=Generators(processes=2, cpu_share=0.2, late=0),
    )  # fmt: skip


class Model:
    """A service of a known capacity: latency as that of an M/M/1 queue, whose quantiles are known."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.asked: list[float] = []

    async def __call__(self, loop: Loop) -> Measured:
        if isinstance(loop, Open):
            self.asked.append(loop.rate)
            if loop.rate >= self.capacity:
                return measured(self.capacity, 4000)
            return measured(loop.rate, 4.6 * 1000 / (self.capacity - loop.rate))
        self.asked.append(loop.concurrency)
        return measured(min(self.capacity, loop.concurrency * 1000), max(1.0, loop.concurrency * 1000 / self.capacity))


async def test_a_sweep_finds_the_highest_rate_that_is_carried() -> None:
    model = Model(capacity=9000)
    steps, best = await sweep(model, "rate", [], step_s=1, target_p99_ms=10)
    limit = 9000 - 4.6 * 1000 / 10
    assert best is not None
    assert 0.93 * limit < best <= limit
    assert [step.load for step in steps] == sorted(model.asked)


async def test_a_sweep_at_random_moments_compares_with_the_rate_that_was_sent() -> None:
    """A Poisson process sends 4 % less than asked one time in some; that is no fault of the service."""

    async def perfect(loop: Loop) -> Measured:
        assert isinstance(loop, Open)
        return measured(0.95 * loop.rate, 1)

    _, best = await sweep(perfect, "rate", [1000, 2000], step_s=1, target_p99_ms=10, poisson=True)
    assert best == 2000

    async def slow(loop: Loop) -> Measured:
        assert isinstance(loop, Open)
        return measured(0.9 * loop.rate, 1, seconds=2)

    _, best = await sweep(slow, "rate", [1000], step_s=1, target_p99_ms=10)
    assert best is None, "it took two seconds to answer one second's requests"


def test_a_time_out_costs_no_throughput() -> None:
    totals = Totals()
    totals.add(0, tick([1000] * 9_999, at=10.0))
    timeout = Done(errors={"timeout": 1})
    totals.add(0, Tick(at=15.0, sent=1, done={"balance": timeout}, last_active=10.0, last_done=15.0))
    totals.finish()
    assert Measured.of(totals).throughput == pytest.approx(999.9)
    assert totals.completed_s == 15.0


def test_latency_by_endpoint() -> None:
    totals = Totals()
    for name, us in (("balance", 1000), ("get", 9000)):
        done = tick([us] * 10).done["balance"]
        totals.add(0, Tick(at=0.5, sent=10, done={name: done}, last_active=0.5, last_done=0.5))
    totals.finish()
    figures = Measured.of(totals).figures()
    assert (figures["balance.p99"], figures["get.p99"]) == pytest.approx((1, 9), rel=0.01)
    assert figures["p50"] == pytest.approx(1, rel=0.01)
    assert list(figures) == [
        *RUN[:8],
        *(name for name in run_figures({"balance": 1, "get": 1}) if "." in name and name != "p99.9"),
        *RUN[8:],
    ]
    with pytest.raises(BenchmarkError, match=r"no figure get\.p99"):
        parse("get.p99>1ms", RUN)
    verdict = parse("get.p99>1ms", run_figures({"balance": 1, "get": 1})).verdict(figures)
    assert verdict is not None
    assert verdict.startswith("get.p99>1ms: it is 9.00")


@pytest.mark.parametrize("text", ["", "balance=-1", "balance=x", "balances=1", "get=1,get=2", "get=0", "a,,b"])
def test_an_invalid_mix_is_refused(text: str) -> None:
    with pytest.raises(BenchmarkError, match="--mix"):
        parse_mix(text)


def test_a_mix_is_drawn_by_its_weights() -> None:
    mix = parse_mix("balance=80, get=15,create=5")
    drawn = draws(mix, 1)
    names = [next(drawn) for _ in range(20_000)]
    assert [names.count(name) / 20_000 for name in mix] == pytest.approx([0.8, 0.15, 0.05], abs=0.01)


async def test_a_sweep_over_given_rates_measures_all_of_them() -> None:
    model = Model(capacity=9000)
    steps, best = await sweep(model, "rate", [1000, 20_000, 5000], step_s=1, target_p99_ms=10)
    assert (best, [step.load for step in steps]) == (5000, [1000, 5000, 20_000])
    _, none = await sweep(model, "rate", [20_000], step_s=1, target_p99_ms=10)
    assert none is None


async def test_a_sweep_over_concurrencies_ends_where_more_gives_no_more() -> None:
    model = Model(capacity=6000)
    steps, best = await sweep(model, "concurrency", [], step_s=1, target_p99_ms=50)
    assert [step.load for step in steps] == [1, 2, 4, 8, 16]
    assert best == 16


@pytest.fixture
def run_result() -> RunResult:
    totals = Totals()
    totals.add(0, tick([1000, 2000, 3000], at=1.5))
    totals.finish()
    return RunResult.of(totals, {"target": "<b>here</b>"}, [], "2026-01-01T00:00:00+00:00")


def test_a_result_survives_its_file(run_result: RunResult, tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    results.write(run_result, path)
    assert results.read(path) == run_result
    body = json.loads(path.read_text())
    assert (body["version"], body["kind"], body["measured"]["replies"]) == (2, "run", 3)


def spoilt(path: Path, run_result: RunResult) -> Iterator[str]:
    yield "no such thing: cannot be read"
    path.write_text("{")
    yield "is not a result"
    path.write_text("[]")
    yield "is not a result"
    path.write_text(run_result.model_copy(update={"version": 1}).model_dump_json())
    yield "has version 1, and this benchmark reads 2"
    path.write_text(run_result.model_dump_json().replace('"kind":"run"', '"kind":"other"'))
    yield "is not a result"


def test_a_file_that_is_no_result(run_result: RunResult, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for problem in spoilt(path, run_result):
        with pytest.raises(BenchmarkError, match=problem.rpartition(": ")[2]):
            results.read(path)


def test_a_comparison_is_of_what_both_have(run_result: RunResult) -> None:
    slower = run_result.model_copy(update={"measured": measured(100, 6.0)})
    grid = comparison(run_result, slower, "old.json")
    rows = {row[0]: row[1:] for row in grid.rows}
    assert rows["p99"] == ("3.00", "6.00", "2.00")
    assert rows["errors"] == ("0.00", "0.00", "-")
    swept = SweepResult(
        started_at="", machine=Machine.this(), settings={}, over="rate", target_p99_ms=1, steps=[], best=None
    )
    assert [row[0] for row in comparison(run_result, swept, "x").rows] == ["throughput"]


@pytest.mark.parametrize(
    ("generators", "limit"),
    [
        (Generators(processes=2, cpu_share=0.95, late=0), "a generator took 95% of a core"),
        (Generators(processes=2, cpu_share=0.5, late=20), "20 of 1,000 requests were sent late"),
        (Generators(processes=2, cpu_share=0.5, late=10), None),
    ],
)
def test_generators_that_are_what_was_measured_say_so(generators: Generators, limit: str | None) -> None:
    assert generators.limit(1000) == limit
