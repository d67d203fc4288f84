"""Drills on tasks: restarted, killed, seeding twenty at a time, their credentials rotated."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import nats.errors
import pytest

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ACCOUNT
from local.load import request_for
from local.system import Task, ready
from service.contracts import customer as contract
from service.contracts.customer import SEED_DONE, SEED_KEY
from service.runtime.cancel import cancel
from tests.support.drills.drill import Drill, Probe, stored, traffic, words
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB
from tests.support.world import World, complaint, eventually, log_lines, stop, tasks

pytestmark = pytest.mark.xdist_group("drills")


@pytest.mark.drill(
    "rolling restart of 3 tasks, SIGTERM one after another under load",
    "no failed request, every reply's event in the stream",
)
async def test_rolling_restart(world: World, drill: Drill) -> None:
    rate = drill.pick(300, 2000)
    async with tasks(world, 3) as started, AsyncExitStack() as replacements:
        fresh: list[Task] = []
        async with traffic(world, rate, expected=world.rows()) as load:
            for task in started:
                await load.more(rate // 2)
                fresh.append(await replacements.enter_async_context(world.launch()))
                await stop(task)
                await ready(fresh[-1])
            await load.more(rate // 2)
            totals = await load.finish()
        await stop(*fresh)
    events = await world.last_sequence()
    drill.found(f"{totals.sent:,} requests at {rate:,}/s, {totals.errors.total()} failed, {events:,} events")
    assert totals.errors == {}
    assert events == totals.replies == totals.sent


@pytest.mark.drill(
    "kill -9 of one task under load",
    "only requests in its hands time out; a replacement serves within 3 s",
)
async def test_kill(world: World, drill: Drill) -> None:
    rate = drill.pick(300, 2000)
    async with tasks(world, 2) as (killed, survivor), traffic(world, rate, timeout_s=1, expected=world.rows()) as load:
        await load.more(rate)
        killed.child.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        async with world.task() as replacement:
            serving_s = time.monotonic() - killed_at
            await load.more(rate)
            totals = await load.finish()
            drill.found(
                f"{totals.sent:,} requests, {words(totals.errors) if totals.errors else 'none failed'}; "
                f"a replacement served after {serving_s:.1f} s"
            )
            await stop(survivor, replacement)
        assert totals.errors.keys() <= {"timeout"}
        # What the task had read, and what was in its socket when the server noticed.
        assert totals.errors["timeout"] <= 0.25 * rate
        assert serving_s < drill.pick(15, 3)


@pytest.mark.drill(
    "twenty tasks started at once on an empty table, a third of them killed while seeding",
    "exactly the rows, exactly one flag, no row changed after it was first served",
)
async def test_seeding(world: World, proxy: FaultyDynamoDB, drill: Drill) -> None:
    count = drill.pick(6, 20)
    victims = count // 3
    chance = random.Random(count)

    async def slowly(action: str, _call: Call) -> None:
        if action == "PutItem":
            await asyncio.sleep(0.1)

    proxy.fault = slowly
    served: dict[str, set[bytes]] = {}
    async with AsyncExitStack() as stack, world.client() as client:
        launches = (world.launch(health_port=0, **proxy.env) for _ in range(count))
        started = [await stack.enter_async_context(launch) for launch in launches]

        async def ask_on() -> None:
            """From the first moment on: what is served once must be what is served, and there, for ever."""
            for number in itertools.cycle(range(1, 1001)):
                with contextlib.suppress(nats.errors.NoRespondersError, nats.errors.TimeoutError):
                    reply = await client.request(contract.SUBJECT, request_for(str(number)), timeout=1)
                    if not reply.headers:
                        served.setdefault(str(number), set()).add(reply.data)
                await asyncio.sleep(0.002)

        asking = asyncio.create_task(ask_on())

        def seeds(task: Task) -> bool:
            return any(line["event"] == "seeding" for line in log_lines(task.child.log.read_text()))

        await eventually(lambda: any(map(seeds, started)), within_s=60, what="seeding")
        doomed = sorted(started, key=lambda task: (not seeds(task), chance.random()))[:victims]
        for task in doomed:
            await asyncio.sleep(chance.uniform(0, 0.6))
            task.child.signal(signal.SIGKILL)
        surviving = [task for task in started if task not in doomed]

        await asyncio.wait_for(asyncio.gather(*map(ready, surviving)), 60)
        await eventually(lambda: len(served) > 200, within_s=30, what="200 clients served")
        await cancel(asking)
        for task in surviving:
            await stop(task)
        logs = [log_lines(task.child.log.read_text()) for task in started]
    rows = world.rows()
    async with world.administrator() as admin:
        keys = await (await admin.key_value(contract.BUCKET)).keys()
        flag = (await (await admin.key_value(contract.BUCKET)).get(SEED_KEY)).value
    finished = [line for log in logs for line in log if line["event"] == "seeded"]
    puts = Counter(call["Item"]["id"]["S"] for action, call in proxy.calls if action == "PutItem")
    drill.found(
        f"{count} tasks, {victims} killed (the one that seeded among them): {len(rows):,} rows, "
        f"{len(finished)} finished the seeding, {sum(puts.values()) - len(puts):,} inserts refused as already there"
    )
    assert sorted(map(int, rows)) == list(range(1, 1001))
    assert (keys, flag) == ([SEED_KEY], SEED_DONE)
    assert len(finished) == 1
    assert served == {client_id: {b'{"balance":%d}' % rows[client_id]} for client_id in served}


@pytest.mark.drill(
    "credentials rotated while running; a task with revoked credentials",
    "served without a gap through a rolling restart; the revoked task ends with one clear line",
)
async def test_rotation(world: World, drill: Drill) -> None:
    rate = drill.pick(300, 2000)
    old, new = Key.user(), Key.user()

    def env(key: Key) -> dict[str, str]:
        token = claims.user_jwt(ACCOUNT.user("service"), key.public, world.account, account=world.account.public)
        return {"NATS_CREDENTIALS": base64.b64encode(claims.creds_file(token, key).encode()).decode()}

    async with tasks(world, 2, **env(old)) as started, AsyncExitStack() as replacements:
        fresh: list[Task] = []
        async with traffic(world, rate, expected=world.rows()) as load:
            for task in started:
                fresh.append(await replacements.enter_async_context(world.task(**env(new))))
                await load.more(rate // 2)
                await stop(task)
            await load.more(rate // 2)
            totals = await load.finish()
        left_behind = await replacements.enter_async_context(world.task(**env(old)))
        await world.push(revoked={old.public: int(time.time()) + 1})
        async with asyncio.timeout(15):
            code = await left_behind.child.wait()
        said = left_behind.child.last_words()
        code_of_next, next_said = await world.run_to_end(health_port=0, **env(old))
        probe = await one_probe(world)
        await stop(*fresh)
    drill.found(f"{totals.sent:,} requests, {totals.errors.total()} failed; the revoked task said: {said}")
    assert totals.errors == {}
    assert (code, code_of_next) == (1, 1)
    for line in (said, complaint(next_said)):
        assert line.startswith("error: NATS at ")
        assert "refuses the credentials" in line
        assert "put current ones into NATS_CREDENTIALS" in line
    assert "Traceback" not in next_said + Path(left_behind.child.log).read_text()
    assert probe == "OK"
    await stored(world, totals.replies + 1)


async def one_probe(world: World) -> str:
    async with world.client() as client:
        return await Probe(client, world.rows()).ask("1")
