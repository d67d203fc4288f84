"""Return freed memory to the system."""

from __future__ import annotations

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
BYTES: Final = 128 * 1024
"""glibc's initial threshold. By default it grows with the blocks freed, and events of 390 KB fragment the heap."""


def give_back_large_blocks() -> None:
    """Fix glibc's thresholds, so that freed large blocks leave the process. Does nothing with another C library.

    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, BYTES)
        mallopt(M_TRIM_THRESHOLD, BYTES)
