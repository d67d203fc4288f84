"""Drills on overload as requesters on other servers see it: they hear late that a task is full."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
from nats.aio.msg import Msg

from benchmark.load import TIMEOUT
from benchmark.transport import NO_RESPONDERS
from tests.support.clusters import PLACES, places
from tests.support.drill import Drill
from tests.support.world import World, stop

pytestmark = [pytest.mark.xdist_group("drills"), pytest.mark.timeout(900)]

PATIENCE_S = 1.0
AT_ONCE = 3_000
VCPU = 0.25


async def burst(world: World, requests: int) -> Counter[str]:
    """What becomes of requests that are sent at once: answered, refused, or neither within `PATIENCE_S`."""
    told = Counter[str]()
    async with world.client() as client:
        inbox, all_told = client.new_inbox(), asyncio.Event()

        async def see(msg: Msg) -> None:
            told[NO_RESPONDERS if (msg.headers or {}).get("Status") == "503" else "answered"] += 1
            if told.total() == requests:
                all_told.set()

        await client.subscribe(f"{inbox}.*", cb=see)
        await client.flush()
        for number in range(requests):
            body = b'{"client_id":"%d"}' % (number % 1000 + 1)
            await client.publish("customer.balance", body, reply=f"{inbox}.{number}")
        await client.flush()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await all_told.wait()
        except TimeoutError:
            told[TIMEOUT] = requests - told.total()
    return told


@pytest.mark.drill(
    f"{AT_ONCE:,} requests at once on two tasks, from their own node, over a route and over a gateway",
    "each answered or told `no responders`; at most 1 % neither, median of three",
)
async def test_a_burst(world: World, drill: Drill, tmp_path: Path) -> None:
    async with places(world, tmp_path) as at, at[PLACES[0]].task() as one, at[PLACES[0]].task() as other:
        lost, found = {}, []
        for place in PLACES:
            await burst(at[place], 1000)  # each server knows of the tasks
            runs = []
            for _ in range(3):
                await asyncio.sleep(1.0)  # the tasks' room is free again
                runs.append(await burst(at[place], AT_ONCE))
            lost[place] = median(run[TIMEOUT] / AT_ONCE for run in runs)
            counts = ", ".join(f"{run['answered']:,} and {run[TIMEOUT]:,}" for run in runs)
            found.append(f"{place}: answered and neither {counts}")
        drill.found("; ".join(found))
        await stop(one, other)
    assert max(lost.values()) <= 0.01, lost
