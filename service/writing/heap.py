"""Memory that is given back to the system when it is freed."""

from __future__ import annotations

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
BYTES: Final = 128 * 1024
"""glibc's first value. Left alone it grows with the blocks that are freed, and events of 390 KB leave holes."""


def give_back_large_blocks() -> None:
    """Where the C library is not glibc there is nothing to set.

    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, BYTES)
        mallopt(M_TRIM_THRESHOLD, BYTES)
