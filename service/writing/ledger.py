"""The messages that an archiver holds: the intake adds them, the archiver takes them off. Neither knows the other."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Generic

from service.sources.source import M

NS: Final = 1_000_000_000
MAX_HELD: Final = 2_500
MAX_HELD_BYTES: Final = 6 * 1024 * 1024


class Ledger(Generic[M]):
    """Holds each message from its delivery until it is acknowledged or given back."""

    def __init__(self, max_held: int = MAX_HELD, max_bytes: int = MAX_HELD_BYTES) -> None:
        self.received = 0
        """Deliveries so far: a message delivered twice counts twice."""
        self.bytes = 0
        self.waiting = deque[M]()
        """Messages that nobody writes yet, in order of arrival."""
        self.arrived = asyncio.Event()
        """Set when messages have come."""
        self.freed = asyncio.Event()
        """Set when there is room for another receive."""
        self.receiving = 0
        """Receives in flight."""
        self.portion = 0, 0
        """Messages and bytes that a receive may bring."""
        self._max_held = max_held
        self._max_bytes = max_bytes
        self._held: dict[M, float] = {}
        """Message -> when it was delivered or last extended, on the loop's clock."""
        self._loop = asyncio.get_running_loop()

    @property
    def held(self) -> int:
        return len(self._held)

    def __contains__(self, message: M) -> bool:
        return message in self._held

    def messages(self) -> list[M]:
        return list(self._held)

    def oldest_s(self) -> float:
        """Return the age in seconds of the oldest held message; 0 if none is held."""
        now_ns = time.time_ns()
        return max(0.0, (now_ns - min((message.sent_ns for message in self._held), default=now_ns)) / NS)

    def has_room(self) -> bool:
        """Return whether another receive fits. With nothing held one always may: any message must come through."""
        messages, size = self.portion
        asked = self.receiving + 1
        fits = self._max_held - len(self._held) >= asked * messages and self._max_bytes - self.bytes >= asked * size
        return fits or (asked == 1 and not self._held)

    def take(self, messages: Sequence[M]) -> None:
        """Hold messages. Never waits or refuses: a large one may exceed the limit."""
        self._held.update(dict.fromkeys(messages, self._loop.time()))
        self.received += len(messages)
        self.bytes += sum([message.size for message in messages])
        self.waiting += messages
        self.arrived.set()

    def forget(self, messages: Iterable[M]) -> None:
        """Stop holding these: they are acknowledged, given back or buried."""
        for message in messages:
            if self._held.pop(message, None) is not None:
                self.bytes -= message.size
        if self.has_room():
            self.freed.set()

    def due(self, every_s: float) -> list[M]:
        """Return the messages that came, or were last due, at least `every_s` seconds ago."""
        now = self._loop.time()
        due = [message for message, since_s in self._held.items() if now - since_s > every_s]
        self._held.update(dict.fromkeys(due, now))
        return due
