"""One subject's grants: which are open, and what their deliveries tell of the time without any."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from service.nats.parser import Callback, Read

SLEEP_S: Final = 0.1
"""A CPU quota's period, the longest sleep: https://docs.kernel.org/scheduler/sched-bwc.html"""
TELLING: Final = 16
"""Requests. Of grants for fewer, the first may stay untouched while others are used: that says nothing."""

Take = Callable[[Read], None]


class _Grants:
    """What was granted at one moment."""

    __slots__ = ("unseen_s", "untouched")

    def __init__(self, unseen_s: float) -> None:
        self.untouched = True
        self.unseen_s = unseen_s
        """Seconds without credit to count, if at the first delivery all grants before these are used up."""


class Window:
    """One subject's grants, oldest first."""

    def __init__(self, subject: str, queue: str, take: Take) -> None:
        self.subject = subject
        self.queue = queue
        self.take = take
        self.on_read: Callback
        """One for all its grants: what they bring in one read comes together."""
        self.outstanding = 0
        """Requests that the server may still deliver."""
        self.granted_s: float | None = None
        """When grants were last made on this connection."""
        self.overdraft: dict[str, int] = {}
        """By sid, the newest last: requests beyond the room that are left. The one before it may still bring some."""
        self._open: dict[str, tuple[_Grants, int]] = {}
        """By sid: what a grant belongs to, and how many messages of it are left."""

    def add(self, sids: Sequence[str], limit: int, empty_s: float) -> None:
        """Note further grants of `limit` each, made now; the subject was seen without any for the last `empty_s`."""
        now_s = time.monotonic()
        since_s = now_s - self.granted_s if self.granted_s is not None else 0.0
        self.granted_s = now_s
        total = limit * len(sids)
        grants = _Grants(max(0.0, min(since_s, SLEEP_S) - empty_s) if total >= TELLING else 0.0)
        self._open.update(dict.fromkeys(sids, (grants, limit)))
        self.outstanding += total

    def use(self, sids: Sequence[str], spend: Callable[[str], None]) -> float:
        """Note deliveries, by sid. Returns for how many seconds, unseen until now, the server had no credit.

        Messages beyond a grant's limit do not count: a busy server may deliver some.
        """
        unseen_s = 0.0
        counts = Counter(sids)
        for sid in counts:
            grants, _ = self._open.get(sid, (None, 0))
            if grants and grants.untouched:
                grants.untouched = False
                if grants.unseen_s and self._is_oldest(grants, sids[: sids.index(sid)]):
                    unseen_s += grants.unseen_s
        for sid, count in counts.items():
            grants, left = self._open.get(sid, (None, 0))
            if grants is None:
                continue
            used = min(left, count)
            self.outstanding -= used
            if used < left:
                self._open[sid] = grants, left - used
            else:
                del self._open[sid]
                spend(sid)
        return unseen_s

    def _is_oldest(self, grants: _Grants, before: Sequence[str]) -> bool:
        """Whether all grants that were made earlier are used up, with deliveries of these sids."""
        for sid, (of, left) in self._open.items():
            if of is grants:
                return True
            if before.count(sid) < left:
                return False
        return True

    def forget(self) -> None:
        self._open.clear()
        self.overdraft.clear()
        self.outstanding = 0
        self.granted_s = None
