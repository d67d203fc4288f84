"""Simulate the decisions of Application Auto Scaling's target tracking, minute by minute; a minute may be shorter.

A metric above its target in three consecutive readings adds tasks in proportion. When all metrics are below nine tenths
of their targets in fifteen consecutive readings, tasks are removed, down to what the highest metric still needs.
https://docs.aws.amazon.com/autoscaling/application/userguide/target-tracking-scaling-policy-overview.html
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deploy.file import read
from deploy.scaling_rules import SCALE_IN_COOLDOWN_S, SCALE_OUT_COOLDOWN_S, TARGET_WITHOUT_CREDIT_PERCENT
from deploy.settings import ASSUMED, Settings

PERIOD_S: Final = 60.0
HIGH_READINGS: Final = 3
LOW_READINGS: Final = 15
LOW_SHARE: Final = 0.9
CPU_UNITS: Final = 1024


@dataclass(frozen=True)
class Rules:
    """The rules that `deploy/settings.toml` deploys."""

    min_tasks: int
    max_tasks: int
    targets: Mapping[str, float]
    """Metric -> target for its average over the tasks."""
    vcpu: float
    scale_out_cooldown_s: float = SCALE_OUT_COOLDOWN_S
    scale_in_cooldown_s: float = SCALE_IN_COOLDOWN_S

    @staticmethod
    def deployed() -> Rules:
        """Read the rules. Raises `ValidationError` for settings that cannot be deployed."""
        settings = Settings(**{**read(), **ASSUMED})
        targets = {
            "Cpu": float(settings.target_cpu),
            "InFlight": float(settings.target_in_flight),
            "TimeWithoutCredit": float(TARGET_WITHOUT_CREDIT_PERCENT),
        }
        return Rules(settings.min_tasks, settings.max_tasks, targets, settings.cpu / CPU_UNITS)


class TargetTracking:
    """Decides the number of tasks from each period's readings."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._readings: deque[Mapping[str, float]] = deque(maxlen=LOW_READINGS)
        self._scaled_out_s = self._scaled_s = -math.inf

    def decide(self, now_s: float, tasks: int, readings: Mapping[str, float]) -> int:
        """Return how many tasks to run. `now_s` and the cooldowns are in simulated seconds."""
        rules = self._rules
        self._readings.append(readings)
        recent = list(self._readings)[-HIGH_READINGS:]
        high = [
            name
            for name, target in rules.targets.items()
            if len(recent) == HIGH_READINGS and all(reading[name] > target for reading in recent)
        ]
        if high:
            needed = max(math.ceil(tasks * readings[name] / rules.targets[name]) for name in high)
            if now_s - self._scaled_out_s >= rules.scale_out_cooldown_s and tasks < rules.max_tasks:
                self._scaled_out_s = self._scaled_s = now_s
                return min(needed, rules.max_tasks)
        elif self._all_low() and tasks > rules.min_tasks and now_s - self._scaled_s >= rules.scale_in_cooldown_s:
            needed = max(math.ceil(tasks * readings[name] / target) for name, target in rules.targets.items())
            self._scaled_s = now_s
            return max(min(needed, tasks - 1), rules.min_tasks)
        return max(rules.min_tasks, min(tasks, rules.max_tasks))

    def _all_low(self) -> bool:
        return len(self._readings) == LOW_READINGS and all(
            reading[name] < LOW_SHARE * target
            for reading in self._readings
            for name, target in self._rules.targets.items()
        )
