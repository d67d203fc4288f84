"""A till for each client whose adjustments wait: they share transactions, in the order in which they came.

A till has one transaction at a time, of up to `MAX_ENTRIES` adjustments; what comes meanwhile waits for the next.
No two tills share a transaction, so that one client never fails with another.

| what a transaction's call brings | what the till does |
| --- | --- |
| success | answers all of its adjustments |
| it was cancelled: somebody else was faster, or an adjustment is there already | reads the rows, decides again |
| throttling, a 5xx, no answer | sends the same bytes again: their ClientRequestToken has them executed once |
| any other refusal | refuses all of its adjustments |

Each adjustment is answered by its deadline. One whose transaction may or may not have been executed by then is told so;
asked for again, under its id, it finds out.
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
from typing import Final, Protocol

from service.customer.ledger.decide import Adjustment, Decision, Entry, State, decide
from service.customer.ledger.tables import MAX_ENTRIES, state_of
from service.customer.requests.burst import Burst
from service.customer.requests.errors import RequestError, Unavailable
from service.customer.store.lookup import BatchLoader, Read
from service.customer.store.rows import refusal
from service.dynamodb.errors import CredentialsRefreshError, DynamoDBError, classify, is_retryable
from service.dynamodb.table import DEADLINE_S, Outcome
from service.runtime.errors import ServiceError

CONCURRENT: Final = 64
"""Tills that have a call at a time; the others wait, and fill."""
STATES: Final = 10_000
"""Clients as this task left them, the latest ones: with one of these a till needs no read."""
BACKOFF_S: Final = 0.05
CONFLICT_S: Final = 0.005
"""The first waits, with full jitter; they double up to `BACKOFF_MAX_S`."""
BACKOFF_MAX_S: Final = 0.5
LEAST_S: Final = 0.1
"""A call has at least so long before its deadline; it takes a tenth of that."""

CANCELLED: Final = "TransactionCanceledException"
PASSES: Final = frozenset({
    "None", "ConditionalCheckFailed", "TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError",
})  # fmt: skip
"""Reasons for which a transaction may be executed when it is decided again."""
_CONFLICTS: Final = {"ConditionalCheckFailed", "TransactionConflict"}


class Store(Protocol):
    """What `Ledger` does for a till."""

    async def read(
        self, client_id: str, adjustment_ids: Sequence[str], deadline: float, /
    ) -> tuple[State | None, dict[str, Entry]]: ...

    async def look(self, client_id: str, adjustment_ids: Sequence[str], deadline: float, /) -> dict[str, Entry]: ...

    def transaction(self, client_id: str, before: State, new: Sequence[Entry], /) -> bytes: ...

    async def write(self, transaction: bytes, entries: int, deadline: float, /) -> None: ...


@dataclass(slots=True, eq=False)
class Waiting:
    """An adjustment and who waits for its answer."""

    adjustment: Adjustment
    request: Burst
    deadline: float
    sent: bool = False
    """A transaction with it may have been executed, or may still be."""


Made = Callable[[Waiting, Entry, bool], None]
"""Answers with an entry that is in the ledger, and is told whether it was just written. The requester may have been
refused by then.
"""


@dataclass(slots=True)
class TillStats:
    conflicts: int = 0
    """Transactions that were cancelled because somebody else was faster."""
    unknown: int = 0
    """Adjustments whose requester was told that the outcome is not known."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Adjustments that are decided together, and the transaction that makes it so."""

    members: Sequence[Waiting]
    decision: Decision
    transaction: bytes | None
    """None: there is nothing to write."""
    guessed: bool
    """Decided without a look at the rows."""


@dataclass(slots=True, eq=False)
class _Till:
    waiting: deque[Waiting] = field(default_factory=deque)
    group: _Group | None = None
    """Its transaction was sent, and is to be sent again."""
    failures: int = 0
    """Since the last success."""
    doubted: bool = False
    """A transaction was cancelled: the next group is decided by the rows."""


class Tills:
    def __init__(self, ledger: Store, made: Made, read: Read) -> None:
        """`read` is consistent: balances of clients that are not remembered are read together."""
        self.stats = TillStats()
        self._clients = BatchLoader[asyncio.Future[Outcome]](read)
        self._ledger = ledger
        self._made = made
        self._tills: dict[str, _Till] = {}
        """By client, those that are not empty."""
        self._ready: deque[str] = deque()
        """Clients whose till no worker has, in turn."""
        self._workers: set[asyncio.Task[None]] = set()
        self._states: dict[str, State] = {}
        self._loop = asyncio.get_running_loop()

    def add(self, asked: Iterable[tuple[Adjustment, Burst]]) -> None:
        """Answer each request when its adjustment is made, or refuse it, by `DEADLINE_S` from now."""
        deadline = self._loop.time() + DEADLINE_S
        for adjustment, request in asked:
            till = self._tills.get(adjustment.client_id)
            if till is None:
                till = self._tills[adjustment.client_id] = _Till()
                self._ready.append(adjustment.client_id)
            till.waiting.append(Waiting(adjustment, request, deadline))
        for _ in range(min(len(self._ready), CONCURRENT - len(self._workers))):
            worker = self._loop.create_task(self._work(), name="till")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        while self._ready:
            client_id = self._ready.popleft()
            till = self._tills[client_id]
            try:
                await self._serve(client_id, till)
            except Exception as error:  # a defect: it must not stand in this client's way for ever
                while till.waiting:
                    till.waiting.popleft().request.fail(error)
            if till.waiting:
                self._ready.append(client_id)
            else:
                del self._tills[client_id]

    async def _serve(self, client_id: str, till: _Till) -> None:
        """Answer one group, or those whose time is over."""
        self._expire(till, TimeoutError())
        while till.waiting:
            try:
                group = till.group or await self._decide(client_id, till)
                if group.transaction is not None:
                    till.group = group
                    deadline = till.waiting[0].deadline
                    await self._ledger.write(group.transaction, len(group.decision.new), deadline)
            except Exception as error:
                await self._failed(client_id, till, error)
            else:
                self._settle(client_id, till, group)
                return

    async def _decide(self, client_id: str, till: _Till) -> _Group:
        """By the client's balance alone, if that makes all of the adjustments; else by the rows, the ledger's too."""
        before = None if till.doubted else self._states.get(client_id) or await self._read(client_id)
        members = list(islice(till.waiting, MAX_ENTRIES))
        asked = [member.adjustment for member in members]
        deadline, at = members[0].deadline, _now()
        decision = decide(before, {}, asked, at)
        guessed = not decision.unproven
        if not guessed:
            before, there = await self._ledger.read(client_id, [each.adjustment_id for each in asked], deadline)
            decision = decide(before, there, asked, at)
            if unproven := decision.unproven:
                # Rows are read each by itself: an entry may have been written, and its points be in the balance.
                ids = [asked[number].adjustment_id for number in unproven]
                if later := await self._ledger.look(client_id, ids, deadline):
                    decision = decide(before, {**there, **later}, asked, at)
        transaction = None
        if decision.new:
            assert before is not None  # noqa: S101  nobody else's adjustments are made
            transaction = self._ledger.transaction(client_id, before, decision.new)
        return _Group(members, decision, transaction, guessed)

    async def _read(self, client_id: str) -> State | None:
        """The client without his ledger; None also where the read failed: then the rows are read for him alone."""
        found: asyncio.Future[Outcome] = self._loop.create_future()
        self._clients.load([client_id], [found], _deliver)
        row = await found
        return state_of(client_id, row) if isinstance(row, Mapping) else None

    def _settle(self, client_id: str, till: _Till, group: _Group) -> None:
        till.group, till.failures, till.doubted = None, 0, False
        if after := group.decision.after:
            self._states.pop(client_id, None)
            self._states[client_id] = after
            if len(self._states) > STATES:
                del self._states[next(iter(self._states))]
        new = {id(entry) for entry in group.decision.new}
        for member, outcome in zip(group.members, group.decision.outcomes, strict=True):
            if till.waiting and till.waiting[0] is member:
                till.waiting.popleft()
            if isinstance(outcome, Entry):
                member.request.attempt(self._answer, member, outcome, id(outcome) in new)
            else:
                member.request.refuse(outcome)

    def _answer(self, _: Burst, member: Waiting, entry: Entry, is_new: bool) -> None:
        self._made(member, entry, is_new)

    async def _failed(self, client_id: str, till: _Till, error: Exception) -> None:
        """Refuse those for whom nothing more can be done; return when the till is to try again."""
        self._states.pop(client_id, None)
        group = till.group
        cancelled = isinstance(error, DynamoDBError) and error.code == CANCELLED
        if cancelled:
            till.group, till.doubted = None, True
            if set(_reasons(error)) & _CONFLICTS and not (group and group.guessed):
                self.stats.conflicts += 1
        if not (_passes(error) if cancelled else is_retryable(error)):
            till.group = None
            last = group.members[-1] if group else list(islice(till.waiting, MAX_ENTRIES))[-1]
            while (member := till.waiting.popleft()) is not last:
                self._refuse(member, error)
            self._refuse(last, error)
            return
        if group and not cancelled and _may_be_executed(error):
            for member in group.members:
                member.sent = True
        pause_s = 0.0
        if not (cancelled and group and group.guessed):
            first = CONFLICT_S if cancelled else BACKOFF_S
            pause_s = min(BACKOFF_MAX_S, first * 2.0**till.failures) * random.random()
            till.failures += 1
        self._expire(till, error, pause_s)
        if till.waiting and pause_s:
            await asyncio.sleep(pause_s)

    def _expire(self, till: _Till, error: Exception, pause_s: float = 0.0) -> None:
        """Refuse those, they came first, for whom a call after a pause would be too late.

        One that is cut off is worse than none: what became of it would not be known.
        """
        latest = self._loop.time() + pause_s + LEAST_S
        while till.waiting and till.waiting[0].deadline <= latest:
            self._refuse(till.waiting.popleft(), error)
        if not till.waiting:
            till.group = None

    def _refuse(self, member: Waiting, error: Exception) -> None:
        if isinstance(error, RequestError):
            member.request.refuse(error)
            return
        if isinstance(error, DynamoDBError) and error.code == CANCELLED and _passes(error):
            refused: RequestError = Unavailable("other adjustments of this client came first; try again")
        else:
            refused = refusal(member.adjustment.client_id, classify(error))
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


def _reasons(error: Exception) -> Sequence[str]:
    return error.reasons if isinstance(error, DynamoDBError) else ()


def _passes(error: Exception) -> bool:
    """Whether a cancelled transaction may be executed when it is decided again."""
    return set(_reasons(error)) <= PASSES


def _may_be_executed(error: Exception) -> bool:
    """The call failed, and what it asked for may happen all the same."""
    if isinstance(error, DynamoDBError):
        return error.status >= 500 or error.code == "TransactionInProgressException"
    return not isinstance(error, CredentialsRefreshError | ServiceError)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
