"""Limit a process to a share of a vCPU as Fargate does: by a quota of a cgroup, version 1 or 2. Requires root.

https://docs.kernel.org/scheduler/sched-bwc.html, https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PERIOD_US: Final = 100_000
_ROOT: Final = Path("/sys/fs/cgroup")

Bound = Callable[[int], None]
"""Applies the limit to a process, by its id."""


@contextmanager
def cpu_bound(vcpu: float) -> Iterator[Bound | None]:
    """Yield a limit for processes that end before the context does, or None where this system does not allow one."""
    try:
        group = _make(vcpu)
    except OSError:
        yield None
        return

    def bound(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(pid))

    try:
        yield bound
    finally:
        with contextlib.suppress(OSError):  # a process is still ending
            group.rmdir()


def _make(vcpu: float) -> Path:
    quota_us = round(vcpu * PERIOD_US)
    name = f"customer-balance-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    if (_ROOT / "cgroup.controllers").exists():
        (_ROOT / "cgroup.subtree_control").write_text("+cpu")
        return _with(_ROOT / name, {"cpu.max": f"{quota_us} {PERIOD_US}"})
    return _with(_ROOT / "cpu" / name, {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota_us)})


def _with(group: Path, values: dict[str, str]) -> Path:
    group.mkdir()
    try:
        for name, value in values.items():
            (group / name).write_text(value)
    except OSError:
        group.rmdir()
        raise
    return group
