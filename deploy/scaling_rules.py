"""The figures of target tracking that are no choice of a deployment's; `local` rehearses the same ones."""

from typing import Final

SCALE_OUT_COOLDOWN_S: Final = 60
SCALE_IN_COOLDOWN_S: Final = 300
TARGET_WITHOUT_CREDIT_PERCENT: Final = 20
"""An upper estimate, 60 at one and a half times a task's peak: a low target asks for too many tasks."""
