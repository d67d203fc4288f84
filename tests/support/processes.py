"""Other processes, as psutil sees them: each may end between two calls."""

from __future__ import annotations

import contextlib

import psutil


def family(pid: int) -> list[tuple[psutil.Process, str]]:
    """Return the descendants of a process, each with its command line."""
    found: list[tuple[psutil.Process, str]] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found.append((child, " ".join(child.cmdline())))
    return found
