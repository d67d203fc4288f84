"""Histograms that are cheap to update, converted to Prometheus families at each scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

LabelValues = TypeVar("LabelValues", bound=tuple[str, ...])


class Histogram:
    """Counts observations by bucket. `bounds` are the buckets' upper limits; one more bucket takes the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count


def quantile(bounds: Sequence[float], counts: Sequence[int], q: float) -> float:
    """Return a quantile, interpolated linearly within its bucket like Prometheus's `histogram_quantile`."""
    rank, below = q * sum(counts), 0
    for number, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            lower = bounds[number - 1] if number else 0.0
            return lower + (bounds[number] - lower) * (rank - below) / count
        below += count
    return bounds[-1]


def totals(*found: tuple[str, str, float]) -> Iterator[Metric]:
    """Yield a counter family for each name, documentation and value."""
    for name, documentation, value in found:
        yield CounterMetricFamily(name, documentation, value)


def gauges(*found: tuple[str, str, float]) -> Iterator[Metric]:
    """Yield a gauge family for each name, documentation and value."""
    for name, documentation, value in found:
        yield GaugeMetricFamily(name, documentation, value)


def counters(name: str, documentation: str, labels: Sequence[str], counts: Mapping[LabelValues, int]) -> Metric:
    """Return a counter family with one sample per tuple of label values."""
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


def histograms(name: str, documentation: str, labels: Sequence[str], found: Mapping[LabelValues, Histogram]) -> Metric:
    """Return a histogram family with one histogram per tuple of label values."""
    family = HistogramMetricFamily(name, documentation, labels=labels)
    for values, histogram in sorted(found.items()):
        buckets, so_far = [], 0
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        family.add_metric(values, buckets, sum_value=histogram.total)
    return family
