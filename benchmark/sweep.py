"""Raise the load in steps until the service saturates, and find the highest load that it handled well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Literal

from benchmark.load.job import ENDLESS, Closed, Loop, Open
from benchmark.report.measured import Measured
from benchmark.report.result import SweepStep

Over = Literal["rate", "concurrency"]
FIRST: Final[dict[Over, float]] = {"rate": 1000, "concurrency": 1}
GROWTH: Final[dict[Over, float]] = {"rate": 1.5, "concurrency": 2}
KEPT_SHARE: Final = 0.98
"""A service that answers less than this share of the rate does not keep up."""
FLAT: Final = 1.02
"""The service is saturated when doubling the concurrency raises throughput by less than this factor."""
REFINEMENTS: Final = 3


async def sweep(
    measure: Callable[[Loop], Awaitable[Measured]],
    over: Over,
    given: Sequence[float],
    *,
    step_s: float,
    target_p99_ms: float,
    poisson: bool = False,
) -> tuple[list[SweepStep], float | None]:
    """Measure the `given` loads; without any, growing loads until one is too high, then loads between the last two.

    If a load was not handled while the generators were the limit, it is measured a second time: the cause may have been
    generator noise. Return the steps in order of load, and the highest load handled: p99 within the target, no error,
    the rate kept.
    """

    async def measured(loop: Loop) -> Measured:
        once = await measure(loop)
        load = loop.rate if isinstance(loop, Open) else loop.concurrency
        if once.interrupted or not once.at_generators_limit:
            return once
        handled = carried(over, SweepStep(load=load, measured=once), step_s, target_p99_ms)
        return once if handled else await measure(loop)

    steps: list[SweepStep] = []
    for load in iter(given) if given else _growing(over):
        if over == "rate":
            loop: Loop = Open(rate=load, duration_s=step_s, poisson=poisson)
        else:
            loop = Closed(requests=ENDLESS, concurrency=round(load), duration_s=step_s)
        steps.append(SweepStep(load=load, measured=await measured(loop)))
        if steps[-1].measured.interrupted:
            break
        if not given and _saturated(over, steps, step_s, target_p99_ms):
            break
    if not given and over == "rate" and not steps[-1].measured.interrupted:
        await _refine(measured, steps, step_s=step_s, target_p99_ms=target_p99_ms, poisson=poisson)
    steps.sort(key=lambda step: step.load)
    return steps, max((step.load for step in steps if carried(over, step, step_s, target_p99_ms)), default=None)


def carried(over: Over, step: SweepStep, step_s: float, target_p99_ms: float) -> bool:
    """Return whether the service kept up with the rate sent, which with Poisson differs slightly from the target."""
    measured = step.measured
    keeps = over == "concurrency" or measured.throughput >= KEPT_SHARE * measured.requests / step_s
    return keeps and not measured.interrupted and not measured.failed and measured.latency.p99_ms <= target_p99_ms


def _growing(over: Over) -> Iterator[float]:
    load = FIRST[over]
    while True:
        yield load
        load *= GROWTH[over]


def _saturated(over: Over, steps: Sequence[SweepStep], step_s: float, target_p99_ms: float) -> bool:
    if not carried(over, steps[-1], step_s, target_p99_ms):
        return True
    if over == "rate" or len(steps) < 2:
        return False
    before, last = steps[-2].measured.throughput, steps[-1].measured.throughput
    return last < FLAT * before


async def _refine(
    measure: Callable[[Loop], Awaitable[Measured]],
    steps: list[SweepStep],
    *,
    step_s: float,
    target_p99_ms: float,
    poisson: bool,
) -> None:
    """Halve the distance between the highest rate handled and the lowest not handled."""
    for _ in range(REFINEMENTS):
        good = max((step.load for step in steps if carried("rate", step, step_s, target_p99_ms)), default=0.0)
        bad = min(step.load for step in steps if not carried("rate", step, step_s, target_p99_ms))
        if good == 0.0 or good > bad:
            return
        rate = float(round((good + bad) / 2))
        measured = await measure(Open(rate=rate, duration_s=step_s, poisson=poisson))
        steps.append(SweepStep(load=rate, measured=measured))
        if measured.interrupted:
            return
