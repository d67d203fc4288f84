"""The pairs of CPU and memory that Fargate offers."""

from __future__ import annotations

from typing import Final

STOP_TIMEOUT_MAX_S: Final = 120
"""Fargate's longest time between SIGTERM and SIGKILL."""

_GIB: Final = 1024
MEMORY_OF_CPU: Final = {
    256: {512, 1024, 2048},
    512: set(range(1 * _GIB, 4 * _GIB + 1, _GIB)),
    1024: set(range(2 * _GIB, 8 * _GIB + 1, _GIB)),
    2048: set(range(4 * _GIB, 16 * _GIB + 1, _GIB)),
    4096: set(range(8 * _GIB, 30 * _GIB + 1, _GIB)),
    8192: set(range(16 * _GIB, 60 * _GIB + 1, 4 * _GIB)),
    16384: set(range(32 * _GIB, 120 * _GIB + 1, 8 * _GIB)),
}
"""https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html"""


def check_size(cpu: int, memory: int) -> None:
    """Raise `ValueError` for a pair of CPU units and MiB that Fargate does not offer."""
    if cpu not in MEMORY_OF_CPU:
        raise ValueError(f"cpu: Fargate has {', '.join(map(str, MEMORY_OF_CPU))}, not {cpu}")
    if memory not in MEMORY_OF_CPU[cpu]:
        least, most = min(MEMORY_OF_CPU[cpu]), max(MEMORY_OF_CPU[cpu])
        raise ValueError(f"memory: with cpu {cpu}, Fargate has {least} to {most} MiB, not {memory}")
