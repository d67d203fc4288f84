"""Adjustments are compared with bare transactions, that a process really makes, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from benchmark.cost.adjust import CLIENTS, MANY, ONE, ROWS, Measure, Measures, balance_beside, beside, transacting
from benchmark.cost.bare_loop import Writes
from benchmark.errors import BenchmarkError
from local.servers import dynamodb
from tests.support.world import World

DURATION_S = 0.3


@pytest.fixture
async def clients(world: World) -> None:
    await world.with_adjustments()
    balances = dict.fromkeys(map(str, range(1, ROWS + 1)), 100)
    await asyncio.to_thread(dynamodb.put_balances, balances, world.table, world.servers.dynamodb_env)


@pytest.mark.parametrize(("what", "adjusted_clients"), [(MANY, CLIENTS), (ONE, 1)])
async def test_the_rate_is_that_of_adjustments_which_are_in_the_ledger_each_once(
    what: str, adjusted_clients: int, world: World, clients: None
) -> None:
    async with transacting(what, world.table, world.adjustments, world.servers.dynamodb_env) as written:
        rates = [(await written(DURATION_S)).rate for _ in range(2)]
    rows = await asyncio.to_thread(world.ledger)
    assert len(rows) >= sum(rates) * DURATION_S > 0
    found = {row["client_id"] for row in rows}
    assert 1 <= len(found) <= adjusted_clients
    assert what == ONE or not found & {*map(str, range(1, CLIENTS + 1))}, "those are the service's"
    balances = await asyncio.to_thread(world.rows)
    assert sum(balances.values()) == 100 * len(balances) + len(rows), "each balance is what its adjustments make it"


async def test_a_table_that_cannot_be_adjusted_is_said_in_one_line(world: World) -> None:
    await world.with_adjustments()
    async with transacting(ONE, world.table, world.adjustments, world.servers.dynamodb_env) as written:
        with pytest.raises(BenchmarkError, match=f"^table {world.table} cannot be written: .*no such client$"):
            await written(DURATION_S)


async def test_all_are_warm_and_measured_in_turns_and_each_is_compared_with_its_own() -> None:
    asked, said = list[tuple[str, float]](), list[str]()

    def measure(name: str, *results: tuple[float, float]) -> Measure:
        left = iter([Writes(), *(Writes(rate=rate, cpu_us=cpu_us) for rate, cpu_us in results)])

        async def measured(duration_s: float) -> Writes:
            asked.append((name, duration_s))
            return next(left)

        return measured

    measures = Measures(
        adjusted=measure("adjusted", (95, 1), (1, 1), (90, 1)),
        written=measure("written", *[(100, 0)] * 3),
        adjusted_alone=measure("alone", (700, 30), (700, 999), (700, 36)),
        created_alone=measure("created", *[(50, 20)] * 3),
        adjusted_one=measure("one", (110, 0), (999, 0), (130, 0)),
        written_one=measure("written one", *[(10, 0)] * 3),
    )
    found = await beside(measures, rounds=3, step_s=3.0, warm_up_s=0.5, say=said.append)
    assert list(found) == pytest.approx([0.9, 13, 1.8])
    names = ["adjusted", "written", "alone", "created", "one", "written one"]
    assert [name for name, _ in asked] == [*names, *names, *names[::-1], *names]
    assert [seconds for _, seconds in asked] == [0.5] * 6 + [3.0] * 18
    assert said[0] == (
        "adjustments: 95/s, of 100 transactions/s; of one client 110/s, over 10; 30 us of CPU, a create 20 us"
    )


async def test_balances_are_measured_in_turns_beside_adjustments_of_the_task_and_of_another() -> None:
    asked, said = list[str](), list[str]()

    def measure(name: str, *p50_ms: float) -> Callable[[float], Awaitable[float]]:
        left = iter(p50_ms)

        async def measured(duration_s: float) -> float:
            asked.append(name)
            assert duration_s == 3.0
            return next(left)

        return measured

    own, others, without = (
        measure("own", 1.1, 9.0, 1.2),
        measure("others", 1.0, 2.0, 1.0),
        measure("none", 0.5, 0.6, 0.5),
    )
    found = await balance_beside(own, others, without, rounds=3, step_s=3.0, say=said.append)
    assert found == pytest.approx(1.2)
    assert asked == ["none", "others", "own", "own", "others", "none", "none", "others", "own"]
    assert said[0] == ("balances: p50 1.10 ms beside 200 adjustments/s, 1.00 ms beside another task's, 0.50 ms without")
