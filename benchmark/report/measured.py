"""The results of one load, as plain values with units in their names."""

from __future__ import annotations

from typing import Final

from hdrh.histogram import HdrHistogram
from pydantic import BaseModel, ConfigDict

from benchmark.load.loops import TIMEOUT
from benchmark.load.totals import Answers, Totals

BUSY: Final = 0.9
"""A generator that uses more than this share of a core cannot keep up."""
LATE_SHARE: Final = 0.01


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latency(Model):
    """Latency of correct replies in milliseconds; a timeout counts with the time it took."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float

    @staticmethod
    def of(histogram: HdrHistogram) -> Latency:
        if not histogram.get_total_count():
            return Latency(mean_ms=0, p50_ms=0, p90_ms=0, p95_ms=0, p99_ms=0, p99_9_ms=0, max_ms=0)
        p50, p90, p95, p99, p99_9 = (histogram.get_value_at_percentile(p) / 1000 for p in (50, 90, 95, 99, 99.9))
        mean, largest = histogram.get_mean_value() / 1000, histogram.get_max_value() / 1000
        return Latency(
            mean_ms=mean, p50_ms=p50, p90_ms=p90, p95_ms=p95, p99_ms=p99, p99_9_ms=p99_9, max_ms=largest
        )  # fmt: skip

    def figures(self) -> dict[str, float]:
        return {
            "mean": self.mean_ms,
            "p50": self.p50_ms,
            "p90": self.p90_ms,
            "p95": self.p95_ms,
            "p99": self.p99_ms,
            "p99.9": self.p99_9_ms,
            "max": self.max_ms,
        }


class Generators(Model):
    """Shows whether the generators, not the service, were the bottleneck."""

    processes: int
    cpu_share: float
    """CPU of the busiest generator, as a share of one core."""
    late: int
    """Requests of an open loop sent more than 5 ms after they were due."""

    def limit(self, sent: int) -> str | None:
        """Return why the generators were the bottleneck; None if they were not."""
        if self.cpu_share > BUSY:
            return f"a generator took {self.cpu_share:.0%} of a core"
        if self.late > LATE_SHARE * sent:
            return f"{self.late:,} of {sent:,} requests were sent late"
        return None


class EndpointResult(Model):
    """The results of one endpoint."""

    name: str
    replies: int
    errors: dict[str, int]
    latency: Latency

    @staticmethod
    def of(name: str, answers: Answers) -> EndpointResult:
        latency = Latency.of(answers.histogram)
        return EndpointResult(name=name, replies=answers.replies, errors=dict(answers.errors), latency=latency)


class Measured(Model):
    """The result of one load: requests = replies + errors."""

    requests: int
    replies: int
    errors: dict[str, int]
    elapsed_s: float
    latency: Latency
    generators: Generators
    interrupted: bool
    endpoints: list[EndpointResult] = []

    @property
    def throughput(self) -> float:
        """Correct replies/s."""
        return self.replies / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def at_generators_limit(self) -> bool:
        return self.generators.limit(self.requests) is not None

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def figures(self) -> dict[str, float]:
        """Return name -> figure; with several endpoints, also each one's: `get.p99`."""
        each = {
            f"{endpoint.name}.{name}": value
            for endpoint in (self.endpoints if len(self.endpoints) > 1 else ())
            for name, value in (*endpoint.latency.figures().items(), ("errors", float(sum(endpoint.errors.values()))))
        }
        return {
            "throughput": self.throughput,
            **self.latency.figures(),
            **each,
            "errors": float(self.failed),
            "error_rate": self.failed / self.requests if self.requests else 0.0,
            "timeouts": float(self.errors.get(TIMEOUT, 0)),
        }

    @staticmethod
    def of(totals: Totals) -> Measured:
        return Measured(
            requests=totals.sent,
            replies=totals.replies,
            errors=dict(totals.errors),
            elapsed_s=totals.elapsed_s,
            latency=Latency.of(totals.histogram),
            generators=Generators(
                processes=len(totals.in_flight_of), cpu_share=totals.busiest_cpu_share, late=totals.late
            ),
            interrupted=totals.interrupted,
            endpoints=[EndpointResult.of(name, answers) for name, answers in sorted(totals.endpoints.items())],
        )
