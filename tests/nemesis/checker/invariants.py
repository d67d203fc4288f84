"""What must hold of every history: pure functions that return what is broken, one line each.

An exemption is one line that quotes its ADR, by cause; never by run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import orjson

from service.contracts.stream import EVENT_PREFIX
from tests.nemesis.checker.history import History, Stored

MEMORY_MIB: Final = 160.0
"""Of a process at the end of a run; the bounds of its memory at length are the benchmark's."""
RECOVERS_S: Final = 5.0
RESTARTS_S: Final = 60.0
STARTING_S: Final = 30.0
"""A process that lived for longer was no longer starting."""

Invariant = Callable[[History, Stored], Iterable[str]]


def balances_are_right(history: History, stored: Stored) -> Iterable[str]:
    """No task ever answers a balance that is not the row's."""
    for seen in history.balances:
        if stored.rows.get(seen.client_id) != seen.balance:
            yield f"{seen.client_id} was answered {seen.balance}, the row has {stored.rows.get(seen.client_id)}"


def answers_are_documented(history: History, _stored: Stored) -> Iterable[str]:
    yield from history.odd_answers


def every_answer_is_an_event(history: History, stored: Stored) -> Iterable[str]:
    """Count an event for each answered balance, unless a task was killed (ADR 3)."""
    if any(ended.asked == "kill" for ended in history.ended):
        return
    events = _of_balances(stored)
    if stored.answered is not None and events < stored.answered:
        yield f"{stored.answered} balances answered, {events} events"


def no_event_twice(history: History, stored: Stored) -> Iterable[str]:
    """Count each id once, and no more events than answers; than requests, where answers are not known."""
    ids = Counter(id_ for _, _, id_, _ in stored.events if id_)
    yield from (f"{count} events with the id {id_}" for id_, count in ids.items() if count > 1)
    events = _of_balances(stored)
    most = len(history.balances) + sum(history.unanswered.values()) if stored.answered is None else stored.answered
    if events > most:
        yield f"{events} events of {most} balances"


def _of_balances(stored: Stored) -> int:
    """Count the events of answered balances; the bank's clients have events of adjustments alone."""
    subjects = [subject for _, subject, _, _ in stored.events if subject.startswith(EVENT_PREFIX)]
    return sum(subject.removeprefix(EVENT_PREFIX) not in stored.bank for subject in subjects)


def creates_hold(history: History, stored: Stored) -> Iterable[str]:
    """Expect an acknowledged create to be readable at once and to stay, and its repeat to get the same answer."""
    for create in history.created:
        if create.answers and stored.rows.get(create.client_id) != 0:
            yield f"{create.client_id} was created, the row has {stored.rows.get(create.client_id)}"
        if len(set(create.answers)) > 1:
            yield f"{create.client_id} was answered {sorted(set(create.answers))}"
        if create.read is not None and create.read != create.name:
            yield f"{create.client_id} was created as {create.name} and read as {create.read}"


def one_row_for_each_event(_history: History, stored: Stored) -> Iterable[str]:
    rows = Counter((row["client_id"], row["event"]) for row in stored.archived)
    yield from (f"{count} rows of {key}" for key, count in rows.items() if count > 1)
    if len(stored.archived) != len(stored.events):
        yield f"{len(stored.events)} events, {len(stored.archived)} rows in the archive"


def every_acknowledged_reading_is_a_row_once(history: History, stored: Stored) -> Iterable[str]:
    rows = Counter(stored.readings)
    yield from (f"{count} rows of {reading}" for reading, count in rows.items() if count > 1)
    yield from (f"no row of {reading}" for reading in sorted(history.readings - rows.keys()))
    yield from (f"a row of {reading}, which no device sent" for reading in sorted(rows.keys() - history.readings))


def the_queue_keeps_its_promises(history: History, _stored: Stored) -> Iterable[str]:
    """None with two clients inside its visibility; an answered deletion holds."""
    yield from history.queue_violations


def points_are_conserved(_history: History, stored: Stored) -> Iterable[str]:
    found = sum(stored.rows[client_id] for client_id in stored.bank)
    if found != stored.opening:
        yield f"the bank began with {stored.opening} points and has {found}"
    for client_id in stored.bank:
        if stored.rows[client_id] < 0:
            yield f"{client_id} has {stored.rows[client_id]}"


def every_answered_adjustment_is_in_the_ledger(history: History, stored: Stored) -> Iterable[str]:
    written = {(row["client_id"], row["adjustment_id"]): row for row in stored.ledger}
    for key, body in history.adjusted.items():
        reply = orjson.loads(body)
        row = written.get(key)
        if row is None or (int(row["points"]), int(row["balance"])) != (reply["points"], reply["balance"]):
            yield f"{key} was answered {reply}, the ledger has {row}"


def processes_end_as_documented(history: History, _stored: Stored) -> Iterable[str]:
    """Expect 0 of a process that is asked to end, and 1 of one that says why it could not start or finish its drain."""
    for ended in history.ended:
        exempt = (
            ended.asked == "terminate" and ended.code == 1 and "drained in part" in ended.last_words,  # ADR 3
            ended.asked == "terminate" and ended.code == -15,  # before it handles signals, it has nothing to drain
            not ended.asked
            and ended.code == 1
            and "no NATS server at" in ended.last_words  # the runbook: none answered within 10 seconds of the start
            and ended.name in history.cut_off,
            not ended.asked
            and ended.code == 1
            and ended.last_words.startswith("error: table ")  # the runbook: "A task that cannot start"
            and ended.life[1] - ended.life[0] < STARTING_S
            and any(begin < ended.life[1] and ended.life[0] < end for begin, end in history.table_faults),
            ended.asked != "kill"
            and ended.code == 1
            and "refuses the credentials" in ended.last_words  # the runbook: "The old ones are void at once"
            and ended.name in history.voided,
        )
        if ended.code != {"kill": -9, "terminate": 0, "": None}[ended.asked] and not any(exempt):
            yield f"{ended.name} ended with {ended.code} ({ended.asked or 'by itself'}): {ended.last_words}"


def no_traceback(history: History, _stored: Stored) -> Iterable[str]:
    for name, log in history.logs.items():
        if "Traceback" in log:
            yield f"{name}: {log[log.index('Traceback') - 200 :][:600]}"


def memory_is_bounded(history: History, _stored: Stored) -> Iterable[str]:
    yield from (f"{name}: {mib:.0f} MiB" for name, mib in history.memory_mib.items() if mib > MEMORY_MIB)


def ready_means_answering(history: History, _stored: Stored) -> Iterable[str]:
    yield from history.readiness


def recovers_in_time(history: History, _stored: Stored) -> Iterable[str]:
    for recovery in history.recoveries:
        # The runbook, of both tasks at once: "ECS starts new ones with the new secret, within a minute"
        if recovery.seconds > (RESTARTS_S if recovery.kind == "credentials revoked" else RECOVERS_S):
            yield f"{recovery.kind}: {recovery.seconds:.1f} s to the next right answer"


ALL: Final[tuple[Invariant, ...]] = (
    balances_are_right, answers_are_documented, every_answer_is_an_event, no_event_twice, creates_hold,
    one_row_for_each_event, every_acknowledged_reading_is_a_row_once, the_queue_keeps_its_promises,
    points_are_conserved, every_answered_adjustment_is_in_the_ledger, processes_end_as_documented, no_traceback,
    memory_is_bounded, ready_means_answering, recovers_in_time,
)  # fmt: skip


def broken(history: History, stored: Stored) -> list[str]:
    """Return a line for each violation, with the invariant's name."""
    return [
        f"{invariant.__name__.replace('_', ' ')}: {line}" for invariant in ALL for line in invariant(history, stored)
    ]
