"""A load of one file is compared with bare writes before and after it, that processes really make."""

from __future__ import annotations

import asyncio

import pytest

from benchmark.cost.bare_loop import Writes
from benchmark.cost.draining import Measure
from benchmark.cost.loading import BARE, LOAD, ratio, writing
from tests.support.world import World


@pytest.mark.parametrize("what", [LOAD, BARE])
async def test_each_writes_as_many_new_rows_as_it_is_asked_for(what: str, world: World) -> None:
    async with writing(what, world.table, world.servers.dynamodb_env) as write:
        for asked, there in ((60, 60), (30, 90)):
            assert (await write(asked)).rate > 0
            assert len(await asyncio.to_thread(world.rows)) == there


async def test_the_whole_load_is_one_file_between_two_halves_of_bare_writes() -> None:
    asked, said = list[tuple[str, float]](), list[str]()

    def measure(name: str, *rates: float) -> Measure:
        left = iter(rates)

        async def measured(rows: float) -> Writes:
            asked.append((name, rows))
            return Writes(rate=next(left))

        return measured

    loaded, written = measure("load", 1, 9_000), measure("bare", 1, *[15_000] * 5, *[7_500] * 5)
    assert await ratio(loaded, written, rows=1_000_000, say=said.append) == pytest.approx(0.9)
    halves = [("bare", 100_000)] * 5
    assert asked == [("load", 2_000), ("bare", 2_000), *halves, ("load", 1_000_000), *halves]
    assert said == ["load: 9,000 rows/s of 1,000,000, of 10,000 of bare writes"]
