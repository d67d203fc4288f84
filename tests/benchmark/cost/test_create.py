"""Creates are compared with bare inserts, that a process really makes, in turns."""

from __future__ import annotations

import asyncio

import pytest

from benchmark.cost.create import CONCURRENCY, Measure, insert_for, inserting, ratio
from benchmark.errors import BenchmarkError
from service.contracts import customer as contract
from service.dynamodb.table import Row, Table
from tests.support.world import World


async def test_the_rate_is_that_of_rows_which_are_in_the_table_each_once(world: World) -> None:
    duration_s = 0.3
    async with inserting(world.table, world.servers.dynamodb_env) as inserted:
        rate = await inserted(duration_s)
        first = set(await asyncio.to_thread(world.rows))
        assert len(first) >= CONCURRENCY
        assert len(first) >= rate * duration_s > 0
        again = await inserted(duration_s)
        both = set(await asyncio.to_thread(world.rows))
    assert first < both
    assert len(both) - len(first) >= again * duration_s > 0


async def test_a_hundred_writes_are_in_flight(world: World, aws: None) -> None:
    table = _Counting(world.table)
    table.open()
    try:
        assert await insert_for(table, 0.2) > 0
    finally:
        table.close()
    assert table.most == CONCURRENCY


async def test_a_table_that_cannot_be_written_is_said_in_one_line(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    async with inserting("no-such-table", world.servers.dynamodb_env) as inserted:
        with pytest.raises(BenchmarkError) as refused:
            await inserted(0.2)
    assert str(refused.value).startswith("table no-such-table cannot be written: DynamoDBError: ResourceNotFound")
    assert capfd.readouterr() == ("", "")


async def test_both_are_warm_and_begin_a_round_in_turns() -> None:
    asked: list[tuple[str, float]] = []
    said: list[str] = []

    def measure(name: str, *rates: float) -> Measure:
        left = iter(rates)

        async def measured(duration_s: float) -> float:
            asked.append((name, duration_s))
            return next(left)

        return measured

    created, inserted = measure("created", 1, 70, 10, 90), measure("inserted", 1, 100, 100, 100)
    found = await ratio(created, inserted, rounds=1, step_s=3.0, warm_up_s=0.5, say=said.append)
    assert found == pytest.approx(0.7)
    assert asked[:2] == [("created", 0.5), ("inserted", 0.5)]
    assert [name for name, _ in asked[2:]] == ["created", "inserted", "inserted", "created", "created", "inserted"]
    assert {seconds for _, seconds in asked[2:]} == {1.0}
    assert said[1] == "creates: 10/s, of 100 inserts/s"


class _Counting(Table):
    """Counts its writes in flight."""

    def __init__(self, name: str) -> None:
        super().__init__(name, contract.KEY_ATTRIBUTE, "DDB_TABLE")
        self.most = self._now = 0

    async def insert(self, row: Row) -> bool:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            return await super().insert(row)
        finally:
            self._now -= 1
