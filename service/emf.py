"""Metrics for CloudWatch, as one line of the log a minute: no agent, no sidecar, no API call.

Embedded metric format: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from service.events import Events
from service.micro import LATENCY_BOUNDS_S, OK, ConcurrentEndpoint
from service.table import Table

NAMESPACE: Final = "CustomerBalance"
DIMENSION: Final = "Table"
"""The one name that the environment gives a task, and that no two deployments share."""

INTERVAL_S: Final = 60.0
ERRORS: Final = ("BAD_REQUEST", "NOT_FOUND", "OVERLOADED", "UNAVAILABLE", "INTERNAL_ERROR")
UNITS: Final = {
    "Requests": "Count",
    **dict.fromkeys(ERRORS, "Count"),
    "InFlight": "Count",
    "LatencyP50": "Milliseconds",
    "LatencyP99": "Milliseconds",
    "BatchSize": "Count",
    "EventsPending": "Count",
    "EventsDropped": "Count",
    "Ready": "Count",
}


@dataclass(frozen=True)
class _Reading:
    """The parts' running totals at one moment."""

    at_s: float
    outcomes: Mapping[str, int]
    processing_ns: int
    latency_counts: Sequence[int]
    batches: int
    batch_keys: int
    dropped: int


class Emitter:
    """Writes what happened since the last line, every `INTERVAL_S` seconds, and once more at the end."""

    def __init__(
        self, endpoint: ConcurrentEndpoint, table: Table, events: Events, is_ready: Callable[[], bool]
    ) -> None:
        self._endpoint = endpoint
        self._table = table
        self._events = events
        self._is_ready = is_ready
        self._last = self._read()

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(INTERVAL_S)
                self._write()
        finally:
            self._write()

    def line(self) -> bytes:
        """The next line, for what happened since the one before."""
        before, now = self._last, self._read()
        self._last = now
        elapsed_s = max(now.at_s - before.at_s, 1e-9)
        outcomes = {name: count - before.outcomes.get(name, 0) for name, count in now.outcomes.items()}
        latencies = [new - old for new, old in zip(now.latency_counts, before.latency_counts, strict=True)]
        batches = now.batches - before.batches
        values: dict[str, Any] = {
            "Requests": sum(outcomes.values()),
            **{name: outcomes.get(name, 0) for name in ERRORS},
            # Little's law: the time spent on requests, in each second of the interval.
            "InFlight": (now.processing_ns - before.processing_ns) / 1e9 / elapsed_s,
            "BatchSize": (now.batch_keys - before.batch_keys) / batches if batches else 0,
            "EventsPending": self._events.pending,
            "EventsDropped": now.dropped - before.dropped,
            "Ready": int(self._is_ready()),
        }
        if any(latencies):
            values["LatencyP50"] = quantile_ms(latencies, 0.5)
            values["LatencyP99"] = quantile_ms(latencies, 0.99)
        metrics = [{"Name": name, "Unit": UNITS[name]} for name in values]
        directive = {"Namespace": NAMESPACE, "Dimensions": [[DIMENSION]], "Metrics": metrics}
        header = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
        return orjson.dumps({"_aws": header, DIMENSION: self._table.name, OK: outcomes.get(OK, 0), **values})

    def _write(self) -> None:
        sys.stderr.buffer.write(self.line() + b"\n")
        sys.stderr.buffer.flush()

    def _read(self) -> _Reading:
        requests, table = self._endpoint.numbers, self._table.numbers
        return _Reading(
            at_s=time.monotonic(),
            outcomes=dict(requests.outcomes),
            processing_ns=requests.processing_ns,
            latency_counts=tuple(requests.latency_counts),
            batches=sum(table.batch_counts),
            batch_keys=table.batch_keys,
            dropped=self._events.numbers.dropped,
        )


def quantile_ms(counts: Sequence[int], quantile: float) -> float:
    """A quantile in milliseconds, linear within its bucket, as Prometheus' `histogram_quantile` has it."""
    rank, below = quantile * sum(counts), 0
    for number, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            lower = LATENCY_BOUNDS_S[number - 1] if number else 0.0
            return (lower + (LATENCY_BOUNDS_S[number] - lower) * (rank - below) / count) * 1000
        below += count
    return LATENCY_BOUNDS_S[-1] * 1000
