"""A till for each client with waiting adjustments: they share transactions, in the order in which they arrived.

A till has one transaction at a time, of up to `MAX_ENTRIES` adjustments; later ones wait for the next transaction.
Tills never share a transaction, so that one client never fails with another.

| result of a transaction's call | what the till does |
| --- | --- |
| success | answers all of its adjustments |
| cancelled: another writer was faster, or an adjustment exists already | reads the rows, decides again |
| throttling, a 5xx, no answer | sends the same bytes again: with one ClientRequestToken they are executed once |
| any other refusal | refuses all of its adjustments |

Each adjustment is answered by its deadline. If its transaction may or may not have been executed by then, the reply
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
"""Tills that may have a call in flight; the others wait, and collect adjustments."""
STATES: Final = 10_000
"""Clients whose state this task remembers, the latest ones, as it left them: their tills need no read."""
BACKOFF_S: Final = 0.05
CONFLICT_S: Final = 0.005
"""The first waits after a failure and after a conflict, with full jitter; they double up to `BACKOFF_MAX_S`."""
BACKOFF_MAX_S: Final = 0.5
LEAST_S: Final = 0.1
"""Seconds that a call must have before its deadline; it takes a tenth of that."""

CANCELLED: Final = "TransactionCanceledException"
PASSES: Final = frozenset({
    "None", "ConditionalCheckFailed", "TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError",
})  # fmt: skip
"""Reasons for which a cancelled transaction may succeed when it is decided again."""
_CONFLICTS: Final = {"ConditionalCheckFailed", "TransactionConflict"}


class Store(Protocol):
    """What a till needs from `Ledger`."""

    async def read(
        self, client_id: str, adjustment_ids: Sequence[str], deadline: float, /
    ) -> tuple[State | None, dict[str, Entry]]: ...

    async def look(self, client_id: str, adjustment_ids: Sequence[str], deadline: float, /) -> dict[str, Entry]: ...

    def transaction(self, client_id: str, before: State, new: Sequence[Entry], /) -> bytes: ...

    async def write(self, transaction: bytes, entries: int, deadline: float, /) -> None: ...


@dataclass(slots=True, eq=False)
class Waiting:
    """An adjustment and the request that waits for its answer."""

    adjustment: Adjustment
    request: Burst
    deadline: float
    sent: bool = False
    """Whether a transaction with it may have been executed, or still may be."""


Made = Callable[[Waiting, Entry, bool], None]
"""Answer with an entry of the ledger. True: it was just written. The request may have been refused by then."""


@dataclass(slots=True)
class TillStats:
    conflicts: int = 0
    """Transactions that were cancelled because another writer was faster."""
    unknown: int = 0
    """Adjustments answered with "the outcome is unknown"."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Adjustments that are decided together, and the transaction that writes the decision."""

    members: Sequence[Waiting]
    decision: Decision
    transaction: bytes | None
    """None: there is nothing to write."""
    guessed: bool
    """Decided by the client's balance alone, without the ledger's rows."""


@dataclass(slots=True, eq=False)
class _Till:
    waiting: deque[Waiting] = field(default_factory=deque)
    group: _Group | None = None
    """The group whose transaction was sent and is to be sent again."""
    failures: int = 0
    """Failures since the last success."""
    doubted: bool = False
    """Whether a transaction was cancelled, so that the next group is decided by the rows."""


class Tills:
    def __init__(self, ledger: Store, made: Made, read: Read) -> None:
        """`read` must be consistent; it reads clients that are not remembered, many in a call."""
        self.stats = TillStats()
        self._clients = BatchLoader[asyncio.Future[Outcome]](read)
        self._ledger = ledger
        self._made = made
        self._tills: dict[str, _Till] = {}
        """Tills that are not empty, by client."""
        self._ready: deque[str] = deque()
        """Clients whose till waits for a worker, in turn."""
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
            except Exception as error:  # a defect: it must not block this client for ever
                while till.waiting:
                    till.waiting.popleft().request.fail(error)
            if till.waiting:
                self._ready.append(client_id)
            else:
                del self._tills[client_id]

    async def _serve(self, client_id: str, till: _Till) -> None:
        """Work until a group is answered, or no adjustment waits; refuse those whose time is over."""
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
        """Decide by the client's balance alone if that leaves no outcome unproven; else by the ledger's rows too."""
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
                # Each row is read on its own: an entry may be written by now, and its points be in the balance.
                ids = [asked[number].adjustment_id for number in unproven]
                if later := await self._ledger.look(client_id, ids, deadline):
                    decision = decide(before, {**there, **later}, asked, at)
        transaction = None
        if decision.new:
            assert before is not None  # noqa: S101  no entry is new without a client
            transaction = self._ledger.transaction(client_id, before, decision.new)
        return _Group(members, decision, transaction, guessed)

    async def _read(self, client_id: str) -> State | None:
        """Return the client without its ledger; None also if the read failed: its rows are then read on their own."""
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
            if till.waiting and till.waiting[0] is member:  # or it was refused at its deadline, between two calls
                till.waiting.popleft()
            if isinstance(outcome, Entry):
                member.request.attempt(self._answer, member, outcome, id(outcome) in new)
            else:
                member.request.refuse(outcome)

    def _answer(self, _: Burst, member: Waiting, entry: Entry, is_new: bool) -> None:
        self._made(member, entry, is_new)

    async def _failed(self, client_id: str, till: _Till, error: Exception) -> None:
        """Refuse adjustments for which nothing more can be done; return when the till is to try again."""
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
        """Refuse those, the oldest, for which a call after a pause would be cut off: its outcome would be unknown."""
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
    """Return whether a cancelled transaction may succeed when it is decided again."""
    return set(_reasons(error)) <= PASSES


def _may_be_executed(error: Exception) -> bool:
    """Return whether the transaction of a failed call may have been executed, or still may be."""
    if isinstance(error, DynamoDBError):
        return error.status >= 500 or error.code == "TransactionInProgressException"
    return not isinstance(error, CredentialsRefreshError | ServiceError)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
