"""What clients asked and were answered, and what is stored at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Span = tuple[float, float]
"""Begin and end, in seconds of one clock."""


@dataclass
class Balance:
    """A request for a balance that was answered with one."""

    client_id: str
    balance: int


@dataclass
class Created:
    """A create and the answers to it and its repeats."""

    client_id: str
    name: str
    answers: list[str] = field(default_factory=list)
    read: str | None = None
    """The name that a consistent read brought after the first answer."""


@dataclass
class Ended:
    """A process that ended by itself, or because a fault or the end of the run asked it to."""

    name: str
    code: int
    asked: str
    """`kill`, `terminate`, or empty: it ended by itself."""
    last_words: str
    life: Span = (0.0, 0.0)
    """When it began, and when it ended."""


@dataclass
class Recovery:
    kind: str
    seconds: float
    """From the end of the fault to the next right answer."""


@dataclass
class History:
    balances: list[Balance] = field(default_factory=list)
    unanswered: dict[str, int] = field(default_factory=dict)
    """Requests for a balance by another outcome."""
    created: list[Created] = field(default_factory=list)
    odd_answers: list[str] = field(default_factory=list)
    """Answers that are no documented ones."""
    queue_violations: list[str] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    cut_off: set[str] = field(default_factory=set)
    """Processes whose way to NATS, or whose nats-server, had a fault in the plan."""
    table_faults: list[Span] = field(default_factory=list)
    """When the plan disturbed the table."""
    voided: set[str] = field(default_factory=set)
    """Processes whose credentials the plan made void."""
    readings: set[tuple[str, int]] = field(default_factory=set)
    """Device and epoch of each reading that has its PUBACK."""
    logs: dict[str, str] = field(default_factory=dict)
    recoveries: list[Recovery] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)
    adjusted: dict[tuple[str, str], Any] = field(default_factory=dict)
    """By client and adjustment: the reply."""
    readiness: list[str] = field(default_factory=list)
    """Tasks that were ready and did not answer, or the reverse, at the end."""


@dataclass
class Stored:
    """What is stored once all is quiet."""

    rows: dict[str, int] = field(default_factory=dict)
    """Client id -> balance."""
    ledger: list[dict[str, Any]] = field(default_factory=list)
    opening: int = 0
    """Points that the bank began with, in all."""
    bank: list[str] = field(default_factory=list)
    events: list[tuple[int, str, str, bytes]] = field(default_factory=list)
    """Sequence, subject, `Nats-Msg-Id` and body of each event in the stream."""
    archived: list[dict[str, Any]] = field(default_factory=list)
    answered: int | None = None
    """Balances that the tasks answered by their own counts; None where a task that counted was killed."""
    readings: list[tuple[str, int]] = field(default_factory=list)
    """Device and epoch of each row of readings."""
