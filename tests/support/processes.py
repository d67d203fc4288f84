"""Other processes, as psutil sees them: each may be gone between two looks."""

from __future__ import annotations

import contextlib

import psutil


def family(pid: int) -> list[tuple[psutil.Process, str]]:
    """The children of a process, and theirs, each with its command line."""
    found: list[tuple[psutil.Process, str]] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found.append((child, " ".join(child.cmdline())))
    return found
