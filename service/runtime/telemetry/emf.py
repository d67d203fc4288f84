"""Metrics for CloudWatch as one log line a minute: no agent, no sidecar, no API call.

Embedded metric format: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

INTERVAL_S: Final = 60.0

Figure = tuple[float, str | None]
"""A value and its CloudWatch unit; without a unit it appears in the log line but is not a metric."""


@dataclass(frozen=True)
class Figures:
    """A role's metrics in CloudWatch."""

    namespace: str
    dimension: tuple[str, str]
    """Name and value."""
    read: Callable[[], Mapping[str, Figure]]
    """Return metric name -> figure, each for the time since the last call."""


class Emitter:
    """Writes the figures every `INTERVAL_S` seconds, and once more at the end."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(INTERVAL_S)
                self._write()
        finally:
            self._write()

    def line(self) -> bytes:
        """Read the figures and return them as the next log line."""
        name, value = self._figures.dimension
        figures = self._figures.read()
        directive: dict[str, Any] = {
            "Namespace": self._figures.namespace,
            "Dimensions": [[name]],
            "Metrics": [{"Name": metric, "Unit": unit} for metric, (_, unit) in figures.items() if unit],
        }
        header = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
        return orjson.dumps({"_aws": header, name: value} | {metric: figure for metric, (figure, _) in figures.items()})

    def _write(self) -> None:
        sys.stderr.buffer.write(self.line() + b"\n")
        sys.stderr.buffer.flush()
