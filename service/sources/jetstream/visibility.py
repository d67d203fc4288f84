"""How and when to set a delivery's visibility timeout at the server.

A delayed NAK resets the consumer's expiry timer to 10 ms: with one every 3 ms, nothing ever expires. So no sidecar
sends one in the first 30 ms of each 200 ms of wall-clock time: the gap is the same for all.
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
    """Return the payload that hides a message for `visibility_s` seconds from now; 0: visible at once."""
    return b'-NAK {"delay":%d}' % (visibility_s * NS) if visibility_s else NAK


async def may_be_sent(payload: bytes) -> None:
    """Return when this payload may be sent: a delayed NAK waits for the end of a gap."""
    if payload.startswith(b"-NAK {"):
        await outside_gap()


async def outside_gap() -> None:
    """Return outside a gap. Loops, because a sleep may end early by the wall clock, or late, in the next gap."""
    while (into_ms := time.time() * MS % GAP_PERIOD_MS) < GAP_MS:
        await asyncio.sleep((GAP_MS - into_ms) / MS)
