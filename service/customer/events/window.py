"""How many events may be unacknowledged: additive increase, multiplicative decrease (AIMD).

A stream slower than the demand acknowledges later and later. Then the window halves, at most once per window sent,
until events are acknowledged within `late_s`; a silent stream gets one event, and the window grows again from there.
So events wait here, where waiting causes no retransmission.
https://www.rfc-editor.org/rfc/rfc5681#section-3.1
"""

from __future__ import annotations

from typing import Final

WINDOW_MAX: Final = 4096
STEP: Final = 16
"""Events by which the window grows for each window that is acknowledged in time."""


class Window:
    def __init__(self, late_s: float) -> None:
        self.size = WINDOW_MAX
        self._late_s = late_s
        self._narrowed_s = float("-inf")
        self._credit = 0

    def acknowledged(self, events: int, sent_s: float, now_s: float) -> None:
        """Count `events` that were sent at `sent_s` as stored; the window grows, or halves if they were late."""
        if now_s - sent_s > self._late_s:
            self.narrow(sent_s, now_s)
        elif self.size < WINDOW_MAX:
            self._credit += events * STEP
            grown, self._credit = divmod(self._credit, self.size)
            self.size = min(WINDOW_MAX, self.size + grown)

    def narrow(self, sent_s: float, now_s: float) -> None:
        """Halve the window: an event sent at `sent_s` was late or lost. Ignore one sent before the last halving."""
        if sent_s >= self._narrowed_s:
            self._narrowed_s = now_s
            self.size = max(1, self.size // 2)

    def close(self, now_s: float) -> None:
        """Reduce the window to one event: the stream takes nothing."""
        self._narrowed_s = now_s
        self.size = 1
