"""A till for each client with waiting adjustments, which share transactions in order of arrival.

A till has one transaction at a time, of up to `MAX_ENTRIES` adjustments; later ones wait for the next transaction.
Tills never share a transaction, so that no client's failure affects another client.

| result of a transaction's call | what the till does |
| --- | --- |
| success | answers all of its adjustments |
| cancelled: another writer was faster, or an adjustment exists already | reads the rows, decides again |
| throttling, a 5xx, no answer | sends the same bytes again: their ClientRequestToken makes DynamoDB execute them once |
| any other refusal | refuses all of its adjustments |

Each adjustment is answered by its deadline. If it is unknown by then whether its transaction was executed, the reply
says so; the same request, with the same id, finds out.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from service.customer.ledger.decide import Adjustment, Client, Decision, Entry, State, decide
from service.customer.ledger.failures import is_cancelled, is_conflict, may_be_executed, passes, reply_to
from service.customer.ledger.tables import MAX_ENTRIES, Ledger
from service.customer.store.lookup import BatchLoader, Read
from service.dynamodb.errors import is_retryable
from service.dynamodb.table import DEADLINE_S, Outcome
from service.requests.burst import Burst
from service.requests.errors import Unavailable

CONCURRENT: Final = 64
"""Tills that may have a call in flight; the others wait, and collect adjustments."""
STATES: Final = 10_000
"""The latest clients, whose last written state this task remembers: their tills need no read."""
BACKOFF_MAX_S: Final = 0.5
LEAST_S: Final = 0.1
"""Seconds that a call must have before its deadline; it usually takes a tenth of that."""


@dataclass(frozen=True, slots=True)
class Timing:
    backoff_s: float = 0.05
    conflict_s: float = 0.005
    """First waits after a failure and after a conflict, with full jitter; they double up to `BACKOFF_MAX_S`."""
    deadline_s: float = DEADLINE_S


@dataclass(slots=True, eq=False)
class Waiting:
    """An adjustment and the request that waits for its answer."""

    adjustment: Adjustment
    request: Burst
    deadline: float
    sent: bool = False
    """Whether a transaction with it may have been executed, or still may be."""


Made = Callable[[Waiting, Entry, bool, bool], None]
"""Answer with a ledger entry. The flags: was it just written, and is it the client's latest known one?

The request may already have been refused.
"""


@dataclass(slots=True)
class TillStats:
    conflicts: int = 0
    """Transactions cancelled because another writer was faster."""
    unknown: int = 0
    """Adjustments answered with "the outcome is unknown"."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Adjustments that are decided together, and the transaction that writes the decision."""

    members: Sequence[Waiting]
    decision: Decision
    transaction: bytes | None  # None: there is nothing to write
    guessed: bool
    """Decided from the client's balance alone, without the ledger's rows."""


@dataclass(slots=True, eq=False)
class _Till:
    waiting: deque[Waiting] = field(default_factory=deque)
    group: _Group | None = None
    """The group whose transaction was sent and must be sent again."""
    failures: int = 0
    """Failures since the last success."""
    problem: Exception = field(default_factory=TimeoutError)
    """The last failure: the reason given to adjustments that reach their deadline."""
    doubted: _Group | None = None
    """The group whose transaction was cancelled: the rows decide the next one, and may show that this was executed."""
    served: bool = False  # by a worker, now


class Tills:
    def __init__(self, ledger: Ledger, made: Made, read: Read, *, timing: Timing = Timing()) -> None:
        """`read` must be consistent; it reads clients that are not remembered, many in a call."""
        self.stats = TillStats()
        self._clients = BatchLoader[asyncio.Future[Outcome]](read)
        self._timing = timing
        self._ledger = ledger
        self._made = made
        self._tills: dict[str, _Till] = {}
        """Tills that are not empty, by client."""
        self._ready: deque[str] = deque()
        """Clients whose tills wait for a worker, in order."""
        self._workers: set[asyncio.Task[None]] = set()
        self._states: dict[str, State] = {}
        self._loop = asyncio.get_running_loop()

    def add(self, asked: Iterable[tuple[Adjustment, Burst]]) -> None:
        """Answer each request when its adjustment is made, or refuse it, within `deadline_s` seconds."""
        deadline, clients = self._loop.time() + self._timing.deadline_s, set[str]()
        for adjustment, request in asked:
            clients.add(adjustment.client_id)
            till = self._tills.get(adjustment.client_id)
            if till is None:
                till = self._tills[adjustment.client_id] = _Till()
                self._ready.append(adjustment.client_id)
            till.waiting.append(Waiting(adjustment, request, deadline))
        self._loop.call_at(deadline, self._expire_unserved, clients)
        self._start()

    def _start(self, *ready: str) -> None:
        """Start as many workers as there is work for."""
        self._ready.extend(ready)
        for _ in range(min(len(self._ready), CONCURRENT - len(self._workers))):
            self._workers.add(self._loop.create_task(self._work(), name="till"))

    def _expire_unserved(self, client_ids: Iterable[str]) -> None:
        for client_id in client_ids:
            till = self._tills.get(client_id)
            if till and not till.served:
                self._expire(till)

    async def _work(self) -> None:
        try:
            while self._ready:
                client_id = self._ready.popleft()
                till = self._tills[client_id]
                till.served, pause_s = True, 0.0
                self._ledger.tracing.other_requests()
                try:
                    pause_s = await self._serve(client_id, till)
                except Exception as error:  # a bug must not block this client for ever
                    while till.waiting:
                        till.waiting.popleft().request.fail(error)
                till.served = False
                if not till.waiting:
                    del self._tills[client_id]
                elif pause_s:
                    self._loop.call_later(pause_s, self._start, client_id)
                else:
                    self._ready.append(client_id)
        finally:  # not in a done callback: `add` may be called before it runs
            self._workers.difference_update({asyncio.current_task()})

    async def _serve(self, client_id: str, till: _Till) -> float:
        """Try once to answer a group. Return the seconds to wait, without a worker, before the next attempt."""
        self._expire(till)
        if not till.waiting:
            return 0.0
        try:
            group = till.group or await self._decide(client_id, till)
            if group.transaction is not None:
                till.group = group
                await self._ledger.write(group.transaction, len(group.decision.new), till.waiting[0].deadline)
        except Exception as error:
            return self._failed(client_id, till, error)
        self._settle(client_id, till, group)
        return 0.0

    async def _decide(self, client_id: str, till: _Till) -> _Group:
        """Decide from the client's balance alone if that proves all outcomes; else from the ledger's rows too."""
        before: Client = None
        if not till.doubted:
            before = self._states.get(client_id) or await self._read(client_id, till.waiting[0].deadline)
        members = list(islice(till.waiting, MAX_ENTRIES))
        asked = [member.adjustment for member in members]
        deadline, at = members[0].deadline, _now()
        decision = decide(before, {}, asked, at)
        guessed = not decision.unproven
        if not guessed:
            before, there = await self._ledger.read(client_id, [each.adjustment_id for each in asked], deadline)
            former = till.doubted
            if former and all(there.get(entry.adjustment_id) == entry for entry in former.decision.new):
                return _Group(former.members, former.decision, None, guessed=False)
            decision = decide(before, there, asked, at)
            if unproven := decision.unproven:
                # Each row is read on its own: an entry not found may exist by now, with its points in the balance.
                ids = [asked[number].adjustment_id for number in unproven]
                if later := await self._ledger.look(client_id, ids, deadline):
                    decision = decide(before, {**there, **later}, asked, at)
        transaction = None
        if decision.new:
            assert isinstance(before, State)  # noqa: S101  no entry is new without a client
            transaction = self._ledger.transaction(client_id, before, decision.new)
        return _Group(members, decision, transaction, guessed)

    async def _read(self, client_id: str, deadline: float) -> Client:
        """Return the client without its ledger; None also if the read failed: the read of its rows then says why."""
        found: asyncio.Future[Outcome] = self._loop.create_future()
        self._clients.load([client_id], [found], _deliver)
        await asyncio.wait([found], timeout=(deadline - self._loop.time()) / 2)
        row = found.result() if found.done() else None
        return self._ledger.state_of(client_id, row) if isinstance(row, Mapping) else None

    def _settle(self, client_id: str, till: _Till, group: _Group) -> None:
        till.group, till.failures, till.problem, till.doubted = None, 0, TimeoutError(), None
        if after := group.decision.after:
            self._states.pop(client_id, None)
            self._states[client_id] = after
            if len(self._states) > STATES:
                del self._states[next(iter(self._states))]
        new = {id(entry) for entry in group.decision.new}
        for member, outcome in zip(group.members, group.decision.outcomes, strict=True):
            if till.waiting and till.waiting[0] is member:  # else it was refused at its deadline, between two calls
                till.waiting.popleft()
            if isinstance(outcome, Entry):
                is_last = after is not None and outcome.sequence >= after.count
                member.request.attempt(self._answer, member, outcome, id(outcome) in new, is_last)
            else:
                member.request.refuse(outcome)

    def _answer(self, _: Burst, member: Waiting, entry: Entry, is_new: bool, is_last: bool) -> None:
        self._made(member, entry, is_new, is_last)

    def _failed(self, client_id: str, till: _Till, error: Exception) -> float:
        """Refuse adjustments that cannot succeed; return the seconds to wait before another attempt."""
        self._states.pop(client_id, None)
        group, cancelled = till.group, is_cancelled(error)
        if cancelled:
            till.group, till.doubted = None, group
            if is_conflict(error) and not (group and group.guessed):
                self.stats.conflicts += 1
        if not (passes(error) if cancelled else is_retryable(error)):
            till.group = None
            for member in group.members if group else list(islice(till.waiting, MAX_ENTRIES)):
                if till.waiting and till.waiting[0] is member:  # else it was refused at its deadline
                    self._refuse(till.waiting.popleft(), error)
            return 0.0
        if group and not cancelled and may_be_executed(error):
            for member in group.members:
                member.sent = True
        pause_s = 0.0
        if not (cancelled and group and group.guessed):
            first = self._timing.conflict_s if cancelled else self._timing.backoff_s
            pause_s = min(BACKOFF_MAX_S, first * 2.0**till.failures) * random.random()
            till.failures += 1
        till.problem = error
        self._expire(till, pause_s)
        return pause_s

    def _expire(self, till: _Till, pause_s: float = 0.0) -> None:
        """Refuse the oldest, whose deadline would cut off a call made after the pause: its outcome would be unknown."""
        latest = self._loop.time() + pause_s + LEAST_S
        while till.waiting and till.waiting[0].deadline <= latest:
            member = till.waiting.popleft()
            if not member.sent:  # its group was not executed, and must not be executed after this answer
                till.group = None
            self._refuse(member, till.problem)
        if not till.waiting:
            till.group = None

    def _refuse(self, member: Waiting, error: Exception) -> None:
        refused = reply_to(member.adjustment.client_id, error)
        if member.sent:
            self.stats.unknown += 1
            refused = Unavailable("the outcome is unknown; repeat it with the same adjustment_id")
        member.request.refuse(refused)


def _deliver(
    client_ids: Sequence[str], waiters: Sequence[asyncio.Future[Outcome]], outcomes: Mapping[str, Outcome]
) -> None:
    for client_id, waiter in zip(client_ids, waiters, strict=True):
        if not waiter.done():
            waiter.set_result(outcomes[client_id])


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
