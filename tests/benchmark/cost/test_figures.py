"""The figures that the service must reach are ratios of one round, and the median of the rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark.cost.adjust import AdjustCost
from benchmark.cost.archive import Archived
from benchmark.cost.devices import DevicesCost
from benchmark.cost.figures import (
    BASELINE,
    BUSY,
    ECHO,
    ODD,
    PEER,
    PROGRAMS,
    SERVICE,
    TRACED,
    Round,
    Sample,
    requirements,
)
from benchmark.cost.queue import QueueCost
from benchmark.report.measured import Latency, Measured
from benchmark.report.result import CostResult, CostRow, Machine, Requirement, ScaleRow
from benchmark.report.tables import grids, remarks
from benchmark.report.thresholds import COST, parse

GOOD = QueueCost(same=1.0, shorter=1.0, delete=1.0, receive=1.0, memory=[(1, 70.0), (2, 71.0)])
ADJUSTED = AdjustCost(of_transactions=1.0, one_client=20.0, cpu_over_create=1.5, balance_beside=1.0)
ARCHIVED = Archived(rate_of_writes=1.0, cpu_over_plain=0.1, slow_busy=0.9)

DEVICES = DevicesCost(1.0, 0.5, 1.0, memory=[(1, 90.0), (2, 91.0)], connection_kib=60.0)


def sample(*, throughput: float = 1000.0, cpu: float = 20.0, nats: float = 10.0, p50: float = 1.0) -> Sample:
    latency = Latency(mean_ms=p50, p50_ms=p50, p90_ms=p50, p95_ms=p50, p99_ms=p50, p99_9_ms=p50, max_ms=p50)
    measured = Measured.model_construct(replies=round(throughput), elapsed_s=1.0, latency=latency)
    return Sample(measured, cpu, nats, 1.0)


def one_round(**of_the_service: float) -> Round:
    """The lean echo takes twice the others' CPU, the service three quarters."""
    now = {(program, concurrency): sample() for program in PROGRAMS for concurrency in (1, BUSY)}
    now |= {(ECHO, concurrency): sample(cpu=40.0) for concurrency in (1, BUSY)}
    now |= {(SERVICE, concurrency): sample(**{"cpu": 15.0, **of_the_service}) for concurrency in (1, BUSY)}
    return now


def figures(
    *rounds: Round,
    creates: float = 1.0,
    adjusted: AdjustCost = ADJUSTED,
    queue: QueueCost = GOOD,
    archive: Archived = ARCHIVED,
    devices: DevicesCost = DEVICES,
    loaded: float = 1.0,
) -> dict[str, tuple[float | None, bool]]:
    rows = [
        ScaleRow(of="rows", size=size, throughput=1, p99_ms=1, server_cpu_us=cpu) for size, cpu in ((10, 20), (99, 22))
    ]
    found = requirements(rounds, rows, [(1, 70.0), (2, 71.0)], creates, adjusted, queue, archive, devices, loaded)
    return {requirement.name: (requirement.figure, requirement.holds) for requirement in found}


@pytest.mark.parametrize(
    ("of_the_service", "figure", "must"),
    [
        ({"throughput": 1000.0}, "of_peer", 1.0),
        ({"cpu": 15.0}, "cpu_over_peer", 0.75),
        ({"cpu": 15.0, "nats": 12.0}, "both_cpu_over_peer", 0.9),
        ({"p50": 1.0}, "p50_over_peer", 1.0),
        ({"cpu": 24.0}, "cpu_over_echo", 0.6),
    ],
)
def test_a_figure_holds_at_its_bound_and_not_beyond_it(
    of_the_service: dict[str, float], figure: str, must: float
) -> None:
    is_, holds = figures(one_round(**of_the_service))[figure]
    assert is_ == pytest.approx(must)
    assert holds
    worse = 0.98 if figure == "of_peer" else 1.02
    worst = {name: value * worse for name, value in of_the_service.items()}
    assert not figures(one_round(**worst))[figure][1]


def test_one_bad_round_of_three_does_not_fail() -> None:
    bad = one_round(throughput=1.0, cpu=999.0, p50=999.0)
    assert figures(one_round(), bad, one_round())["cpu_over_peer"] == (0.75, True)
    assert figures(bad, bad, one_round())["cpu_over_peer"][1] is False


def test_programs_are_compared_with_the_right_one() -> None:
    now = one_round()
    now[BASELINE, BUSY] = sample(throughput=10.0)
    now[TRACED, BUSY], now[ODD, BUSY] = sample(cpu=19.5), sample(cpu=21.0)
    found = figures(now)
    assert found["over_plain"] == (100.0, True)
    assert found["cpu_over_untraced"] == (1.3, True)
    assert found["cpu_over_regular"] == (1.4, False)
    assert found["memory_growth"] == (1.0, True)
    assert found["cpu_over_rows"][0] == pytest.approx(1.1)


def test_without_the_peer_its_figures_are_left_out_and_do_not_fail() -> None:
    without = {key: each for key, each in one_round().items() if key[0] != PEER}
    found = figures(without)
    names = ("cpu_over_peer", "both_cpu_over_peer", "of_peer", "p50_over_peer")
    assert [found[name] for name in names] == [(None, True)] * len(names)
    assert [name for name, (figure, _) in found.items() if figure is None] == list(names)


def test_what_was_left_out_is_said_and_is_no_figure() -> None:
    claim = Requirement(name="of_peer", text="of the peer's", figure=None, bound=1.0, at_least=True, unit="")
    row = CostRow(program="service", concurrency=500, throughput=20_000, p50_ms=1, p99_ms=2, server_cpu_us=20,
                  nats_cpu_us=10, load_cpu_us=5, memory_mib=70)  # fmt: skip
    machine = Machine(system="", cpu="", cores=2, python="3.11")
    result = CostResult(started_at="", machine=machine, settings={}, rows=[row], scale=[], memory=[], claims=[claim],
                        left_out="Go is not installed")  # fmt: skip
    assert list(grids(result))[-1].rows == [("of the peer's", "at least 1", "-", "left out")]
    assert list(remarks(result)) == [
        "The generator took at most 5% of this machine's CPU. Python 3.11.",
        "The Go peer was left out: Go is not installed.",
    ]  # fmt: skip
    assert result.figures() == {}
    assert parse("of_peer<1", COST).verdict(result.figures()) == "of_peer<1: it was left out"


def test_creates_reach_six_tenths_of_the_rate_of_bare_writes() -> None:
    assert figures(one_round(), creates=0.6)["create_of_insert"] == (0.6, True)
    assert figures(one_round(), creates=0.59)["create_of_insert"] == (0.59, False)


def test_the_figures_of_adjustments_hold_at_their_bounds_and_not_beyond_them() -> None:
    names = ("adjust_of_transactions", "adjust_one_client", "adjust_cpu_over_create", "balance_beside_adjust")
    found = figures(one_round(), adjusted=AdjustCost(0.9, 10.0, 2.0, 1.15))
    assert [found[name] for name in names] == [(0.9, True), (10.0, True), (2.0, True), (1.15, True)]
    found = figures(one_round(), adjusted=AdjustCost(0.89, 9.9, 2.01, 1.16))
    assert [found[name][1] for name in names] == [False] * len(names)


def test_a_load_reaches_nine_tenths_of_the_rate_of_bare_writes() -> None:
    assert figures(one_round(), loaded=0.9)["load_of_writes"] == (0.9, True)
    assert figures(one_round(), loaded=0.89)["load_of_writes"] == (0.89, False)


def test_the_sidecar_reaches_its_shares_of_a_plain_consumer() -> None:
    found = figures(one_round(), queue=replace(GOOD, same=0.8, shorter=0.6))
    assert (found["queue_of_pull"], found["queue_short_of_pull"]) == ((0.8, True), (0.6, True))
    found = figures(one_round(), queue=replace(GOOD, same=0.79, shorter=0.59))
    assert (found["queue_of_pull"], found["queue_short_of_pull"]) == ((0.79, False), (0.59, False))


def test_its_calls_reach_their_shares_of_an_empty_one_and_its_memory_is_flat() -> None:
    at_the_bounds = replace(GOOD, delete=0.6, receive=0.45, memory=[(1, 118.0), (2, 120.0)])
    beyond = replace(GOOD, delete=0.59, receive=0.44, memory=[(1, 117.9), (2, 120.1)])
    names = ("queue_delete_of_empty", "queue_receive_of_empty", "queue_memory", "queue_growth")
    for queue, holds in ((at_the_bounds, True), (beyond, False)):
        found = figures(one_round(), queue=queue)
        assert [found[name][1] for name in names] == [holds] * len(names)


def test_every_figure_can_be_a_threshold() -> None:
    assert tuple(figures(one_round())) == COST


def test_the_archives_figures_hold_at_their_bounds_and_not_beyond_them() -> None:
    names = ("archive_of_writes", "archive_cpu_over_plain", "archive_slow_busy")
    found = figures(one_round(), archive=Archived(0.85, 0.2, 0.8))
    assert [found[name] for name in names] == [(0.85, True), (0.2, True), (0.8, True)]
    found = figures(one_round(), archive=Archived(0.84, 0.21, 0.79))
    assert [found[name][1] for name in names] == [False, False, False]


def test_the_devices_figures_hold_at_their_bounds_and_not_beyond_them() -> None:
    names = [name for name in COST if name.startswith("devices_")]
    found = figures(one_round(), devices=DevicesCost(1.5, 0.8, 0.9, memory=[(1, 118.0), (2, 120.0)], connection_kib=80))
    assert [found[name] for name in names] == [
        (1.5, True), (0.8, True), (0.9, True), (120, True), (2, True), (80, True)
    ]  # fmt: skip
    beyond = DevicesCost(1.51, 0.81, 0.89, memory=[(1, 118.0), (2, 120.1)], connection_kib=80.1)
    assert [figures(one_round(), devices=beyond)[name][1] for name in names] == [False] * len(names)
