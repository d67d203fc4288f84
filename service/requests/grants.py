"""Track one subject's grants: which are open, and, judging by the deliveries, how long none was."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from service.nats.parser import Callback, Read

SLEEP_S: Final = 0.1
"""A CPU quota's period, so the longest time a task is throttled: https://docs.kernel.org/scheduler/sched-bwc.html"""
TELLING: Final = 16
"""Requests. Grants for fewer in total prove nothing: the first may stay untouched while later ones are used."""

Take = Callable[[Read], None]


class _Grants:
    """Grants made at the same moment."""

    __slots__ = ("unseen_s", "untouched")

    def __init__(self, unseen_s: float) -> None:
        self.untouched = True
        self.unseen_s = unseen_s
        """Seconds to count as time without credit if all earlier grants are used up at the first delivery on these."""


class Window:
    """One subject's grants, oldest first."""

    def __init__(self, subject: str, queue: str, take: Take) -> None:
        self.subject = subject
        self.queue = queue
        self.take = take
        self.on_read: Callback
        """Shared by all its grants, so that their messages in one read arrive together."""
        self.outstanding = 0
        """Requests that the server may still deliver."""
        self.granted_s: float | None = None
        """When grants were last made on this connection."""
        self.overdraft: dict[str, int] = {}
        """By sid, newest last: requests that each overdraft may still deliver. The last but one may, too."""
        self._open: dict[str, tuple[_Grants, int]] = {}
        """By sid: the grants it was made with, and how many messages it may still deliver."""

    def add(self, sids: Sequence[str], limit: int, empty_s: float) -> None:
        """Record grants of `limit` requests each, made now.

        The last `empty_s` seconds are already counted as time without credit.
        """
        now_s = time.monotonic()
        since_s = now_s - self.granted_s if self.granted_s is not None else 0.0
        self.granted_s = now_s
        total = limit * len(sids)
        # A throttled task sees only later that its grants ran out: these seconds count if the deliveries prove it.
        grants = _Grants(max(0.0, min(since_s, SLEEP_S) - empty_s) if total >= TELLING else 0.0)
        self._open.update(dict.fromkeys(sids, (grants, limit)))
        self.outstanding += total

    def use(self, sids: Sequence[str], spend: Callable[[str], None]) -> float:
        """Record deliveries, by sid. Return the newly found seconds in which the server had no credit.

        Messages beyond a grant's limit do not count: a busy server may deliver a few.
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
        """Return whether all earlier grants are used up, once deliveries to the sids `before` are counted."""
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
