"""The checker is checked: each invariant finds a history that breaks it, and none finds fault with a good one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.nemesis.checker.history import Balance, Created, Ended, History, Recovery, Stored
from tests.nemesis.checker.invariants import ALL, broken
from tests.nemesis.mutants import MUTANTS
from tests.nemesis.plan import KINDS, make_plan


def good() -> tuple[History, Stored]:
    history = History(
        balances=[Balance("1", 100)],
        created=[Created("n1", "Ann", ["{}", "{}"], "Ann")],
        ended=[Ended("archive", 0, "terminate", ""), Ended("queue", -9, "kill", "")],
        logs={"archive": "{}"},
        recoveries=[Recovery("kill", 1.0)],
        memory_mib={"archive": 80.0},
        readings={("d0", 1)},
        adjusted={("b1", "t1"): b'{"client_id":"b1","adjustment_id":"t1","points":-5,"balance":95}'},
    )
    stored = Stored(
        rows={"1": 100, "n1": 0, "b1": 95, "b2": 105},
        ledger=[{"client_id": "b1", "adjustment_id": "t1", "points": "-5", "balance": "95"}],
        opening=200,
        bank=["b1", "b2"],
        events=[(1, "customer.balance.1", "a", b"{}")],
        archived=[{"client_id": "1", "event": "a"}],
        readings=[("d0", 1)],
        answered=1,
    )
    return history, stored


def breaks(invariant: str, change: Callable[[History, Stored], object]) -> object:
    return pytest.param(invariant, change, id=invariant)


BROKEN = [
    breaks("balances_are_right", lambda history, _: history.balances.append(Balance("1", 99))),
    breaks("answers_are_documented", lambda history, _: history.odd_answers.append("500 INTERNAL_ERROR")),
    breaks(
        "every_answer_is_an_event",
        lambda history, stored: [history.ended.pop(), stored.events.pop()],
    ),
    breaks("no_event_twice", lambda _, stored: stored.events.append((2, "customer.balance.1", "a", b"{}"))),
    breaks("creates_hold", lambda history, _: history.created.append(Created("n2", "Ann", ["{}"]))),
    breaks("one_row_for_each_event", lambda _, stored: stored.archived.clear()),
    breaks("every_acknowledged_reading_is_a_row_once", lambda _, stored: stored.readings.append(("d0", 1))),
    breaks("the_queue_keeps_its_promises", lambda history, _: history.queue_violations.append("1 was handed out")),
    breaks("points_are_conserved", lambda _, stored: stored.rows.update(b2=104)),
    breaks("every_answered_adjustment_is_in_the_ledger", lambda _, stored: stored.ledger.clear()),
    breaks("processes_end_as_documented", lambda history, _: history.ended.append(Ended("queue", 1, "", "error"))),
    breaks("no_traceback", lambda history, _: history.logs.update(queue="Traceback (most recent call last)")),
    breaks("memory_is_bounded", lambda history, _: history.memory_mib.update(queue=500.0)),
    breaks("ready_means_answering", lambda history, _: history.readiness.append("no answer")),
    breaks("recovers_in_time", lambda history, _: history.recoveries.append(Recovery("cut", 9.0))),
]


def test_a_good_history_breaks_none() -> None:
    assert broken(*good()) == []


@pytest.mark.parametrize(("invariant", "change"), BROKEN)
def test_a_broken_history_is_found(invariant: str, change: Callable[[History, Stored], object]) -> None:
    history, stored = good()
    change(history, stored)
    found = {problem.partition(":")[0].replace(" ", "_") for problem in broken(history, stored)}
    assert invariant in found


def test_a_process_that_nothing_cut_off_has_no_excuse() -> None:
    history, stored = good()
    history.ended.append(Ended("queue", 1, "", "error: no NATS server at nats://127.0.0.1:4222 (no answer)"))
    assert len(broken(history, stored)) == 1
    history.cut_off.add("queue")
    assert broken(history, stored) == []


def test_each_invariant_has_a_history_that_breaks_it() -> None:
    assert [invariant.__name__ for invariant in ALL] == [case.values[0] for case in BROKEN]  # type: ignore[attr-defined]


def test_only_void_credentials_may_be_refused() -> None:
    history, stored = good()
    history.ended.append(
        Ended("customer-0", 1, "", "error: NATS at nats://127.0.0.1 refuses the credentials (expired)")
    )
    assert len(broken(history, stored)) == 1
    history.voided.add("customer-0")
    assert broken(history, stored) == []


def test_a_table_that_nothing_disturbed_is_no_excuse() -> None:
    history, stored = good()
    said = "error: table b: h did not answer in time; see that DynamoDB can be"
    history.ended.append(Ended("customer-0", 1, "", said, life=(10.0, 15.0)))
    history.table_faults = [(1.0, 9.9), (15.1, 20.0)]
    assert len(broken(history, stored)) == 1
    history.table_faults = [(14.0, 16.0)]
    assert broken(history, stored) == []
    history.ended[-1] = Ended("customer-0", 1, "", said, life=(10.0, 60.0))
    history.table_faults = [(14.0, 59.0)]
    assert len(broken(history, stored)) == 1, "a running task does not end because of the table"


def test_an_adjustments_event_is_no_balances() -> None:
    history, stored = good()
    history.ended.clear()
    stored.events = [(1, "customer.balance.b1", "a", b"{}")]
    assert broken(history, stored) == ["every answer is an event: 1 balances answered, 0 events"]


def test_more_events_than_balances_are_doubles() -> None:
    history, stored = good()
    stored.events.append((2, "customer.balance.1", "b", b"{}"))
    stored.archived.append({"client_id": "1", "event": "b"})
    assert broken(history, stored) == ["no event twice: 2 events of 1 balances"]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_changes_what_is_there(name: str) -> None:
    code = f"from tests.nemesis.mutants import load; load({name!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plan_is_its_seed() -> None:
    assert make_plan(106) == make_plan(106) != make_plan(107)
    kinds = {fault.kind for seed in range(100) for fault in make_plan(seed).faults}
    assert kinds == {*KINDS[1], *KINDS[3]}
    assert [fault.number for fault in make_plan(1).only((0, 2)).faults] == [0, 2]
    assert dataclasses.replace(make_plan(1), faults=()).faults == ()
