"""What Application Auto Scaling's target tracking decides, minute by minute; here a minute may be shorter.

A metric above its target in three readings in a row asks for more tasks, in proportion. All of them below nine tenths
of their targets in fifteen readings in a row ask for fewer, as many as the highest of them still needs.
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
    """What `deploy/settings.toml` deploys."""

    min_tasks: int
    max_tasks: int
    targets: Mapping[str, float]
    """By metric: its average over the tasks."""
    vcpu: float
    scale_out_cooldown_s: float = SCALE_OUT_COOLDOWN_S
    scale_in_cooldown_s: float = SCALE_IN_COOLDOWN_S

    @staticmethod
    def deployed() -> Rules:
        """Raises `ValidationError` for settings that cannot be deployed."""
        settings = Settings(**{**read(), **ASSUMED})
        targets = {
            "Cpu": float(settings.target_cpu),
            "InFlight": float(settings.target_in_flight),
            "TimeWithoutCredit": float(TARGET_WITHOUT_CREDIT_PERCENT),
        }
        return Rules(settings.min_tasks, settings.max_tasks, targets, settings.cpu / CPU_UNITS)


class TargetTracking:
    """`decide` is told each period's readings, and answers how many tasks there are to be."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._readings: deque[Mapping[str, float]] = deque(maxlen=LOW_READINGS)
        self._scaled_out_s = self._scaled_s = -math.inf

    def decide(self, now_s: float, tasks: int, readings: Mapping[str, float]) -> int:
        """`now_s` and the cool-downs are seconds as AWS counts them."""
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
