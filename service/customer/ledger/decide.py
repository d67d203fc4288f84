"""Decide a client's adjustments one by one, in order of arrival. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.requests.errors import Conflict, InsufficientBalance, InternalError, NotFound, RequestError


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A requested adjustment."""

    client_id: str
    adjustment_id: str
    points: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """An adjustment that was made: a row of the ledger, from which every reply to it is built."""

    adjustment_id: str
    points: int
    balance: int
    """After this adjustment."""
    sequence: int
    """Its number among the client's adjustments, starting at 1."""
    reason: str | None
    at: str
    """UTC, RFC 3339, with milliseconds."""


@dataclass(frozen=True, slots=True)
class State:
    """A client between two adjustments."""

    balance: int
    count: int
    """Adjustments made so far."""


Client = State | InternalError | None
"""None: no such client. An error: its row is unusable, but an existing entry can still be the reply."""
Outcome = Entry | RequestError


@dataclass(frozen=True, slots=True)
class Decision:
    outcomes: Sequence[Outcome]
    """One for each requested adjustment, in the same order."""
    new: Sequence[Entry]
    """Entries to write, all together or none."""
    after: State | None

    @property
    def unproven(self) -> list[int]:
        """Positions of outcomes that assume a missing ledger row: valid only if it was read after the client's row."""
        return [
            number
            for number, outcome in enumerate(self.outcomes)
            if isinstance(outcome, InsufficientBalance | NotFound | InternalError)
        ]


def decide(state: Client, ledger: Mapping[str, Entry], asked: Sequence[Adjustment], at: str) -> Decision:
    """Return the outcomes of a client's adjustments.

    `ledger` holds the entries known to exist, by id; new ones get the time `at`.
    """
    outcomes, made = list[Outcome](), dict[str, Entry]()
    for adjustment in asked:
        entry = ledger.get(adjustment.adjustment_id) or made.get(adjustment.adjustment_id)
        if entry is not None:
            outcomes.append(entry if entry.points == adjustment.points else _conflict(entry))
        elif state is None:
            outcomes.append(NotFound("no such client"))
        elif isinstance(state, InternalError):
            outcomes.append(state)
        elif adjustment.points < 0 and state.balance + adjustment.points < 0:
            outcomes.append(InsufficientBalance("the balance is less than that"))
        else:
            state = State(state.balance + adjustment.points, state.count + 1)
            entry = Entry(
                adjustment.adjustment_id, adjustment.points, state.balance, state.count, adjustment.reason, at
            )
            made[entry.adjustment_id] = entry
            outcomes.append(entry)
    return Decision(outcomes, list(made.values()), state if isinstance(state, State) else None)


def _conflict(entry: Entry) -> Conflict:
    return Conflict(f"an adjustment of that adjustment_id is there, with {entry.points} points")
