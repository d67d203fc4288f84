"""Target tracking figures that a deployment cannot set; `local` simulates scaling with the same ones."""

from typing import Final

SCALE_OUT_COOLDOWN_S: Final = 60
SCALE_IN_COOLDOWN_S: Final = 300
TARGET_WITHOUT_CREDIT_PERCENT: Final = 20
"""The metric is an upper estimate and reads 60 at 1.5 times a task's peak: a lower target starts too many tasks."""
