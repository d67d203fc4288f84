"""The bank test, as Jepsen has it: points move between clients while all fails that can, and none is made or lost.

https://jepsen.io/analyses
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack

import orjson
import pytest
from aiohttp import web
from botocore.exceptions import ClientError

from local.servers import dynamodb
from local.system import Task, ready
from operations.reconcile import reconcile
from service.contracts.stream import ADJUSTED_PREFIX, STREAM
from tests.support.drills.drill import Drill, words
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal
from tests.support.ledger.adjusting import follows
from tests.support.ledger.bank import OPENING, Bank
from tests.support.world import World

pytestmark = pytest.mark.xdist_group("drills")

SHAKEN = 0.15
"""Of the calls of DynamoDB."""


class Misfortune:
    """What happens to calls of DynamoDB."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.counts: Counter[str] = Counter()

    async def __call__(self, action: str, call: Call) -> web.Response | None:
        if random.random() > SHAKEN:
            return None
        writes = action == "TransactWriteItems"
        kinds = ["throttled", "500", "slow", *(["500 after write", "silent after write", "conflict"] if writes else [])]
        kind = random.choice(kinds)
        self.counts[kind] += 1
        if "after write" in kind:
            await asyncio.to_thread(self._execute, call)
            await asyncio.sleep(2 if kind.startswith("silent") else 0)
            return web.Response(status=500)
        if kind == "slow":
            await asyncio.sleep(random.random() * 0.3)
            return None
        if kind == "conflict":
            body = {
                "__type": "x#TransactionCanceledException",
                "CancellationReasons": [{"Code": "TransactionConflict"}],
            }
            return web.Response(status=400, body=orjson.dumps(body))
        return refusal("ThrottlingException") if kind == "throttled" else web.Response(status=500)

    def _execute(self, call: Call) -> None:
        try:
            dynamodb.client(self._world.servers.dynamodb_env).transact_write_items(**call)
        except ClientError:
            self.counts["cancelled unseen"] += 1


async def disturb(
    world: World, proxy: FaultyDynamoDB, env: dict[str, str], seconds: float, stack: AsyncExitStack
) -> int:
    """Kill and freeze tasks, and reset connections to DynamoDB, for so long. Returns how often."""
    deadline = asyncio.get_running_loop().time() + seconds
    running: list[Task] = [await stack.enter_async_context(world.launch(health_port=0, **env)) for _ in range(3)]
    await asyncio.gather(*map(ready, running))
    times = 0
    while asyncio.get_running_loop().time() < deadline:
        times += 1
        victim = running.pop(0)
        if times % 2:
            victim.child.signal(signal.SIGSTOP)
            await asyncio.sleep(2.5)  # longer than a requester is made to wait
            victim.child.signal(signal.SIGCONT)
            running.append(victim)
        else:
            victim.child.signal(signal.SIGKILL)
            running.append(await stack.enter_async_context(world.launch(health_port=0, **env)))
            await ready(running[-1])
        assert proxy.runner.server
        for connection in list(proxy.runner.server.connections):
            if connection.transport:
                connection.transport.abort()
    return times


@pytest.mark.drill(
    "a bank: points moved between clients by repeated adjustments; tasks killed and frozen, calls of DynamoDB lost, "
    "throttled, reset and executed without an answer",
    "no point made or lost, no balance below 0, each answered adjustment in the ledger once, a repeat the same bytes",
)
async def test_bank(world: World, drill: Drill, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, tellers, seconds = drill.pick((40, 10, 5.0), (1000, 50, 120.0))
    for name, value in world.servers.dynamodb_env.items():
        monkeypatch.setenv(name, value)
    bank = Bank([f"c{number}" for number in range(clients)])
    misfortune = Misfortune(world)
    world.put_rows(dict.fromkeys(bank.clients, OPENING))
    env = {**await world.with_adjustments(), **proxy.env}
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(world.client("teller"))
        proxy.fault = misfortune
        working = [asyncio.create_task(bank.teller(connection)) for _ in range(tellers)]
        times = await disturb(world, proxy, env, seconds, stack)
        bank.closing.set()
        proxy.fault = None
        await asyncio.gather(*working)
        ledger, balances = world.ledger(), world.rows()
        found = await reconcile(world.table, world.adjustments, segments=4)
        async with world.administrator() as admin:
            state = (await admin.stream_info(STREAM, subjects_filter=f"{ADJUSTED_PREFIX}*")).state
    drill.found(
        f"{bank.counts['transfers']:,} transfers, {len(ledger):,} adjustments; "
        f"{times} tasks killed or frozen, {words(misfortune.counts)}; asked again after "
        f"{words({kind: bank.counts[kind] for kind in ('503 UNAVAILABLE', 'no answer', 'no responders')})}; "
        f"{bank.counts['repeats']:,} repeats"
    )
    assert bank.odd == []
    assert sum(balances.values()) == OPENING * clients
    assert min(balances.values()) >= 0
    assert (found.differ, found.points, found.adjustments) == ({}, OPENING * clients, len(ledger))
    told = {key: orjson.loads(body) for key, body in bank.answers.items()}
    written = {(row["client_id"], row["adjustment_id"]): row for row in ledger}
    assert told.keys() == written.keys(), "each that was made was answered in the end"
    for key, reply in told.items():
        assert (reply["points"], reply["balance"]) == (int(written[key]["points"]), int(written[key]["balance"]))
    for client_id in bank.clients:
        rows = sorted((row for row in ledger if row["client_id"] == client_id), key=lambda row: int(row["sequence"]))
        assert follows(rows, OPENING) == balances[client_id]
    assert sum((state.subjects or {}).values()) <= len(ledger), (
        "an adjustment is one event, however often it is answered"
    )
