"""Adjustments that share transactions end as if each had been made alone, in the order in which they came.

On the real engine, with calls that fail before or after they were executed.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import uuid
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.servers import dynamodb
from service.customer.ledger import tills as module
from service.customer.ledger.decide import Adjustment, Client, Entry, State, decide
from service.customer.ledger.tables import MAX_ENTRIES
from service.dynamodb import client as dynamodb_client
from service.dynamodb.endpoint import endpoint
from tests.support.ledger.adjusting import follows
from tests.support.ledger.tills import Asked, Desk, shaky
from tests.support.world import World, eventually

OPENING = 10

asked = st.tuples(
    st.sampled_from(["one", "two"]),
    st.sampled_from([f"a{number}" for number in range(12)]),
    st.sampled_from([-9, -4, -1, 1, 2, 12]),
)
bursts = st.lists(st.lists(asked, min_size=1, max_size=12), min_size=1, max_size=5)
faults = st.lists(st.sampled_from(["", "", "before", "after", "conflict", "throttled", "in progress"]), max_size=12)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def one_at_a_time(bursts: Sequence[Sequence[Asked]]) -> list[str]:
    """What each is told if nobody else is there: the rules, written down once more and without the service's code."""
    balances, made = {"one": OPENING, "two": OPENING}, dict[tuple[str, str], tuple[int, int]]()
    told = []
    for client, key, points in itertools.chain(*bursts):
        if (client, key) not in made and balances[client] + points >= 0:
            balances[client] += points
            made[client, key] = points, balances[client]
        if (client, key) not in made:
            told.append('{"error":"the balance is less than that"}')
        elif made[client, key][0] != points:
            there = made[client, key][0]
            told.append(f'{{"error":"an adjustment of that adjustment_id is there, with {there} points"}}')
        else:
            balance = made[client, key][1]
            reply = f'"client_id":"{client}","adjustment_id":"{key}","points":{points},"balance":{balance}'
            told.append(f"{{{reply}}}")
    return told


@pytest.fixture
async def ready(world: World, aws: None, monkeypatch: pytest.MonkeyPatch) -> World:
    await dynamodb.create_adjustments(world.adjustments, world.servers.dynamodb_env)
    monkeypatch.setattr(dynamodb_client, "endpoint", functools.cache(endpoint))  # to find it is half of an example
    return world


def rows_of(world: World, client_id: str) -> list[dict[str, Any]]:
    engine = dynamodb.client(world.servers.dynamodb_env)
    found = engine.query(
        TableName=world.adjustments, IndexName="by_sequence", KeyConditionExpression="client_id = :c",
        ExpressionAttributeValues={":c": {"S": client_id}},
    )["Items"]  # fmt: skip
    rows: list[dict[str, Any]] = [{name: next(iter(value.values())) for name, value in row.items()} for row in found]
    assert [int(row["sequence"]) for row in rows] == list(range(1, len(rows) + 1)), "no gap, and none twice"
    return rows


def balance_in(world: World, client_id: str) -> int:
    engine = dynamodb.client(world.servers.dynamodb_env)
    item: Any = engine.get_item(TableName=world.table, Key={"id": {"S": client_id}})["Item"]
    return int(item["client_balance"]["N"])


@quick
@given(bursts, faults, st.integers(0, 3))
async def test_the_results_are_those_of_one_at_a_time(
    ready: World, bursts: list[list[Asked]], faults: list[str], turns: int
) -> None:
    prefix = f"{uuid.uuid4().hex}-"
    ready.put_rows({f"{prefix}{name}": OPENING for name in ("one", "two")})
    count = sum(map(len, bursts))
    async with shaky(ready, faults, prefix) as ledger:
        desk = Desk(ledger)
        for burst in bursts:
            desk.ask(burst)
            for _ in range(turns):
                await asyncio.sleep(0)
        await eventually(lambda: len(desk.told) == count)
    assert desk.answers(count) == one_at_a_time(bursts)
    for name in ("one", "two"):
        assert follows(rows_of(ready, prefix + name), OPENING) == balance_in(ready, prefix + name)


@quick
@given(bursts, bursts, faults, faults)
async def test_two_tasks_together_make_each_once_and_lose_none(
    ready: World, first: list[list[Asked]], second: list[list[Asked]], shakes: list[str], others: list[str]
) -> None:
    prefix = f"{uuid.uuid4().hex}-"
    ready.put_rows({f"{prefix}{name}": OPENING for name in ("one", "two")})
    async with shaky(ready, shakes, prefix) as one, shaky(ready, others, prefix) as two:
        desks = [(Desk(one), first), (Desk(two), second)]
        for number in range(max(len(first), len(second))):
            for desk, asked_of_it in desks:
                desk.ask(asked_of_it[number] if number < len(asked_of_it) else [])
            await asyncio.sleep(0)
        for desk, asked_of_it in desks:
            count = sum(map(len, asked_of_it))
            await eventually(lambda desk=desk, count=count: len(desk.told) == count)
    ledgers = {name: rows_of(ready, prefix + name) for name in ("one", "two")}
    for name, rows in ledgers.items():
        assert follows(rows, OPENING) == balance_in(ready, prefix + name)
    made = {(name, row["adjustment_id"]): row for name, rows in ledgers.items() for row in rows}
    answered = set()
    for desk, asked_of_it in desks:
        everything = list(itertools.chain(*asked_of_it))
        for (name, key, points), told in zip(everything, desk.answers(len(everything)), strict=True):
            reply = orjson.loads(told)
            if "error" not in reply:
                answered.add((name, key))
                row = made[name, key]
                assert (reply["points"], reply["balance"]) == (int(row["points"]), int(row["balance"]))
                assert reply["points"] == points
            elif "with" in reply["error"]:
                assert int(made[name, key]["points"]) != points
            else:
                assert reply["error"] == "the balance is less than that"
                assert points < 0
    assert answered == made.keys(), "none was made that nobody was told of"


async def test_what_another_task_made_between_two_reads_is_found_and_not_refused(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of one BatchGetItem are read each by itself: here the balance is read after the ledger."""
    ready.put_rows({"-one": OPENING})
    async with shaky(ready, [], "-") as ledger, shaky(ready, [], "-") as others:
        desk, other, read = Desk(ledger), Desk(others), ledger.read

        async def torn(client_id: str, ids: Sequence[str], deadline: float) -> tuple[Client, dict[str, Entry]]:
            entries = await ledger.look(client_id, ids, deadline)
            other.ask([("one", "a", -OPENING)])
            await eventually(lambda: len(other.told) == 1)
            return (await read(client_id, ids[:1], deadline))[0], entries

        monkeypatch.setattr(ledger, "read", torn)
        monkeypatch.setattr(desk.tills, "_read", _forgets)
        desk.ask([("one", "a", -OPENING)])
        await eventually(lambda: len(desk.told) == 1)
    assert desk.told == other.told == {
        0: f'{{"client_id":"one","adjustment_id":"a","points":-{OPENING},"balance":0}}'
    }  # fmt: skip


async def _forgets(*_: object) -> None:
    """A read that brought nothing."""


async def test_a_defect_refuses_its_own_request_and_stands_in_nobodys_way(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.put_rows({"-one": OPENING})
    async with shaky(ready, [], "-") as ledger:
        desk = Desk(ledger)
        desk.ask([("one", "a", 1), ("one", "defect", 1), ("one", "a", 1), ("one", "b", 1)])
        await eventually(lambda: len(desk.told) == 4)
        assert desk.told[1] == '{"error":"internal error"}'
        assert desk.told[3].endswith(f'"balance":{OPENING + 3}}}')
        desk.ask([("one", "a", 1), ("one", "c", 1)])
        await eventually(lambda: len(desk.told) == 6)
        assert desk.news == [
            ("a", True), ("defect", True), ("a", True), ("b", True), ("a", False), ("c", True),
        ]  # fmt: skip
        monkeypatch.setattr(desk.tills, "_settle", None)
        desk.ask([("one", "d", 1)])
        await eventually(lambda: len(desk.told) == 7)
        monkeypatch.undo()
        desk.ask([("one", "d", 1)])
        await eventually(lambda: len(desk.told) == 8)
        assert (desk.told[6], desk.told[7].endswith(f'"balance":{OPENING + 5}}}')) == (
            '{"error":"internal error"}',
            True,
        )


async def test_a_hot_client_fills_its_transactions(ready: World) -> None:
    ready.put_rows({"-hot": 0})
    async with shaky(ready, [], "-") as ledger:
        desk = Desk(ledger)
        desk.ask([("hot", f"a{number}", 1) for number in range(250)])
        await eventually(lambda: len(desk.told) == 250)
        assert ledger.sizes == [100, 100, 53], "two full ones: 99 and the balance"
        assert not desk.tills._tills
        assert desk.tills.stats.conflicts == 0


async def test_a_client_that_is_remembered_is_not_read(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATES", 2)
    ready.put_rows({f"-{name}": 0 for name in ("a", "b", "c")})
    async with shaky(ready, [], "-") as ledger:
        desk, calls = Desk(ledger), list[str]()
        call = ledger._call

        async def noted(action: str, *args: Any) -> Any:
            calls.append(action)
            return await call(action, *args)

        monkeypatch.setattr(ledger, "_call", noted)
        for number, name in enumerate(["a", "a", "b", "a", "c", "b", "a"]):
            desk.ask([(name, f"x{number}", 1)])
            await eventually(lambda number=number: number in desk.told)
        assert calls == ["TransactWriteItems"] * 7
        assert ledger.table.stats.batch_keys.total == 5, "a, b and c; and b and a, which were forgotten meanwhile"


async def test_clients_that_come_together_are_read_together(ready: World) -> None:
    names = [f"c{number}" for number in range(60)]
    ready.put_rows({f"-{name}": 0 for name in names})
    async with shaky(ready, [], "-") as ledger:
        desk = Desk(ledger)
        desk.ask([(name, "a", 1) for name in names])
        await eventually(lambda: len(desk.told) == 60)
        reads = ledger.table.stats.batch_keys
        assert (reads.total, sum(reads.counts), ledger.sizes) == (60, 1, [2] * 60)


def test_an_empty_ledger_says_nothing_of_what_is_not_in_it() -> None:
    """A refusal must be looked at again, and a conflict with an entry that is there need not be."""
    here = Entry("a", 1, 1, 1, None, "")
    decision = decide(State(1, 1), {"a": here}, [Adjustment("c", key, points, None) for key, points in (
        ("a", 1), ("a", 2), ("b", -2), ("b", -1), ("b", -2), ("d", 1),
    )], "now")  # fmt: skip
    names = [type(outcome).__name__ for outcome in decision.outcomes]
    assert names == ["Entry", "Conflict", "InsufficientBalance", "Entry", "Conflict", "Entry"]
    assert (decision.unproven, [entry.sequence for entry in decision.new], decision.after) == ([2], [2, 3], State(1, 3))
    assert decide(None, {"a": here}, [Adjustment("c", "a", 1, None), Adjustment("c", "b", 1, None)], "").unproven == [1]
    assert len(decide(State(0, 0), {}, [Adjustment("c", str(n), 1, None) for n in range(MAX_ENTRIES)], "").new) == 99
