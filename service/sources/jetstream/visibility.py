"""How a delivery's visibility is set in the server, and when.

A delayed NAK sets the consumer's expiry timer to 10 ms: with one every 3 ms nothing ever expires. So none is sent in
the first 30 ms of each 200 ms of wall clock, the same gap for all sidecars.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

MS: Final = 1000
NS: Final = 1_000_000_000
NAK: Final = b"-NAK"
WORKING: Final = b"+WPI"
GAP_PERIOD_MS: Final = 200
GAP_MS: Final = 30


def delayed(visibility_s: float) -> bytes:
    """Invisible for so long from now on; 0: visible at once."""
    return b'-NAK {"delay":%d}' % (visibility_s * NS) if visibility_s else NAK


async def may_be_sent(payload: bytes) -> None:
    """Return when it may be."""
    if payload.startswith(b"-NAK {"):
        await outside_gap()


async def outside_gap() -> None:
    """Return when a delayed NAK may be sent. A sleep may end early by the wall clock, or so late that it is in the next
    gap.
    """
    while (into_ms := time.time() * MS % GAP_PERIOD_MS) < GAP_MS:
        await asyncio.sleep((GAP_MS - into_ms) / MS)
