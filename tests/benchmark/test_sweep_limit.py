"""A sweep whose generators are the limit: their noise is measured again, and is not called the service's limit."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.load.job import Loop, Open
from benchmark.report.measured import Generators, Measured
from benchmark.report.result import Machine, SweepResult, now
from benchmark.report.tables import remarks
from benchmark.sweep import sweep
from tests.benchmark.test_figures import measured

P99_MS = 10.0
LIMITED = Generators(processes=2, cpu_share=0.99, late=0)


class Machinery:
    """Answers well up to `capacity`. Each load above `generators` finds its generators too slow, `times` times."""

    def __init__(self, capacity: float, generators: float, times: int = 100) -> None:
        self.capacity = capacity
        self.generators = generators
        self.times = times
        self.asked: list[float] = []

    async def __call__(self, loop: Loop) -> Measured:
        assert isinstance(loop, Open)
        self.asked.append(loop.rate)
        if loop.rate > self.generators and self.asked.count(loop.rate) <= self.times:
            return measured(self.generators, 4000).model_copy(update={"generators": LIMITED})
        return measured(min(loop.rate, self.capacity), 1 if loop.rate <= self.capacity else 4000)


async def found(machinery: Machinery, rates: Sequence[float]) -> tuple[SweepResult, str]:
    steps, best = await sweep(machinery, "rate", rates, step_s=1, target_p99_ms=P99_MS)
    result = SweepResult(
        started_at=now(), machine=Machine.this(), settings={}, over="rate", target_p99_ms=P99_MS, steps=steps, best=best
    )
    return result, " ".join(remarks(result))


async def test_a_step_at_the_generators_limit_is_measured_again() -> None:
    machinery = Machinery(capacity=3000, generators=500, times=1)
    result, told = await found(machinery, [1000, 2000, 4000])
    assert machinery.asked == [1000, 1000, 2000, 2000, 4000, 4000]
    assert result.best == 2000
    assert told == "The highest rate with p99 under 10 ms: 2,000 requests/s."


async def test_a_limit_of_the_generators_is_not_called_the_services() -> None:
    _, told = await found(Machinery(capacity=9000, generators=1500), [1000, 2000])
    assert told.startswith(
        "The highest rate with p99 under 10 ms: 1,000 requests/s. The generators were the limit above"
    )
    assert "give more --processes" in told


async def test_without_a_load_that_was_handled_the_option_is_named() -> None:
    _, told = await found(Machinery(capacity=100, generators=9000), [1000])
    assert told == "No step kept p99 under 10 ms: begin lower, for example --rates 100,200,500."
    _, told = await found(Machinery(capacity=9000, generators=100), [1000])
    assert told.endswith("The generators were the limit, too: give more cores.")
