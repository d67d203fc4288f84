"""However many start, and whoever dies: one set of rows, one flag."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import pytest
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue

from local.system import ready
from service.customer.contract import BUCKET, SEED_DONE, SEED_KEY, SEED_LEASE_KEY
from service.customer.seeding import LEASE_S, is_seeded, seed
from service.dynamodb.table import Table
from service.runtime.errors import ServiceError
from tests.support.faulty import FaultyDynamoDB, refusal
from tests.support.table import open_table
from tests.support.world import World, eventually, log_lines

pytestmark = pytest.mark.usefixtures("aws")


@asynccontextmanager
async def seeder(world: World) -> AsyncIterator[tuple[KeyValue, Table]]:
    """What a task brings to the seeding: a connection with its permissions, and the table."""
    async with world.client("service") as client, open_table(world.table) as table:
        yield await client.jetstream().key_value(BUCKET), table


async def flag(world: World) -> bytes | None:
    async with world.administrator() as admin:
        try:
            return (await (await admin.key_value(BUCKET)).get(SEED_KEY)).value
        except KeyNotFoundError:
            return None


async def test_rows_are_as_the_contract_says(world: World) -> None:
    async with seeder(world) as (bucket, table):
        assert not await is_seeded(bucket)
        await seed(bucket, table, 200, "me")
        assert await is_seeded(bucket)
        with pytest.raises(KeyNotFoundError):
            await bucket.get(SEED_LEASE_KEY)
    rows = world.rows()
    assert rows.keys() == {str(number) for number in range(1, 201)}
    assert all(100 <= balance < 10_000 for balance in rows.values())
    assert len(set(rows.values())) > 50
    assert await flag(world) == SEED_DONE


async def test_a_bucket_that_does_not_answer_is_waited_for_and_then_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        """Answers only after some time-outs."""

        def __init__(self, bucket: KeyValue, times: int) -> None:
            self.left = times
            self._bucket = bucket

        async def get(self, key: str) -> KeyValue.Entry:
            self.left -= 1
            if self.left >= 0:
                raise nats.errors.TimeoutError
            return await self._bucket.get(key)

        def __getattr__(self, name: str) -> object:
            return getattr(self._bucket, name)

    monkeypatch.setattr("service.customer.seeding.BUCKET_PATIENCE_S", 1.0)
    async with seeder(world) as (bucket, table):
        with pytest.raises(ServiceError, match="bucket config"):
            await seed(Silent(bucket, 1 << 30), table, 10, "me")  # type: ignore[arg-type]
        assert world.rows() == {}
        await seed(Silent(bucket, 2), table, 10, "me")  # type: ignore[arg-type]
    assert len(world.rows()) == 10


async def test_a_row_that_is_there_keeps_its_balance(world: World) -> None:
    world.put_rows({"7": 1, "150": 2})
    async with seeder(world) as (bucket, table):
        await seed(bucket, table, 100, "me")
    rows = world.rows()
    assert len(rows) == 101
    assert (rows["7"], rows["150"]) == (1, 2)


async def test_a_seeded_table_is_left_alone(world: World) -> None:
    async with seeder(world) as (bucket, table):
        await seed(bucket, table, 10, "me")
        await seed(bucket, table, 20, "me")
    assert len(world.rows()) == 10


async def test_the_losers_wait_until_it_is_done(world: World) -> None:
    done_with: list[int] = []

    async def one(number: int) -> None:
        async with seeder(world) as (bucket, table):
            await seed(bucket, table, 300, f"task {number}")
            done_with.append(len(world.rows()))

    await asyncio.gather(*(one(number) for number in range(5)))
    assert done_with == [300] * 5
    assert await flag(world) == SEED_DONE


async def test_a_lease_that_is_not_renewed_is_taken_over(world: World) -> None:
    world.put_rows({"1": 5})
    async with seeder(world) as (bucket, table):
        await bucket.create(SEED_LEASE_KEY, b"a task that died")
        async with asyncio.timeout(LEASE_S + 3):
            await seed(bucket, table, 50, "me")
    assert world.rows()["1"] == 5
    assert len(world.rows()) == 50


async def test_a_renewed_lease_is_respected(world: World) -> None:
    async with seeder(world) as (bucket, table):
        revision = await bucket.create(SEED_LEASE_KEY, b"a task at work")

        async def work() -> None:
            nonlocal revision
            for _ in range(10):
                await asyncio.sleep(LEASE_S / 6)
                revision = await bucket.update(SEED_LEASE_KEY, b"a task at work", last=revision)

        working = asyncio.create_task(work())
        seeding = asyncio.create_task(seed(bucket, table, 50, "me"))
        await working
        assert world.rows() == {}
        await bucket.put(SEED_KEY, SEED_DONE)
        await asyncio.wait_for(seeding, 3)
    assert world.rows() == {}


async def test_one_that_lost_its_lease_stops(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seeder that was frozen finds, when it wakes up, that another has taken over."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    let_go = asyncio.Event()

    async def hold(_action: str, _call: object) -> None:
        await let_go.wait()

    proxy.fault = hold
    async with seeder(world) as (bucket, table):
        slow = asyncio.create_task(seed(bucket, table, 2000, "slow"))
        await eventually(lambda: len(proxy.calls) == 64)
        await bucket.put(SEED_LEASE_KEY, b"another")
        await asyncio.sleep(1.5)  # past its next renewal
        proxy.fault = None
        let_go.set()
        await bucket.put(SEED_KEY, SEED_DONE)
        await asyncio.wait_for(slow, 3)
        assert len(proxy.calls) == 64, "it writes no further row"
        assert (await bucket.get(SEED_LEASE_KEY)).value == b"another", "another's lease is not its own to release"


async def test_the_one_that_seeds_renews_its_lease(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    let_go = asyncio.Event()

    async def hold(_action: str, _call: object) -> None:
        await let_go.wait()

    proxy.fault = hold
    async with seeder(world) as (bucket, table):
        seeding = asyncio.create_task(seed(bucket, table, 50, "slow"))
        await eventually(lambda: len(proxy.calls) > 0)
        revision = (await bucket.get(SEED_LEASE_KEY)).revision or 0

        async def renewed_twice() -> bool:
            return ((await bucket.get(SEED_LEASE_KEY)).revision or 0) >= revision + 2

        await eventually(renewed_twice, within_s=LEASE_S, what="two renewals before the lease expires")
        let_go.set()
        await seeding
    assert len(world.rows()) == 50


async def test_what_keeps_rows_from_being_written_is_said_and_the_lease_is_free(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    proxy.fault = lambda *_: refusal("AccessDeniedException")
    async with seeder(world) as (bucket, table):
        with pytest.raises(ServiceError, match=r"cannot be seeded \(AccessDeniedException: as the test wants it\)"):
            await seed(bucket, table, 50, "me")
        with pytest.raises(KeyNotFoundError):
            await bucket.get(SEED_LEASE_KEY)
        proxy.fault = None
        async with asyncio.timeout(2):
            await seed(bucket, table, 50, "me")
    assert len(world.rows()) == 50


async def test_throttled_inserts_are_retried(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    proxy.fault = lambda *_: refusal("ThrottlingException") if len(proxy.calls) % 3 == 0 else None
    async with seeder(world) as (bucket, table):
        await seed(bucket, table, 200, "me")
    assert len(world.rows()) == 200


async def test_five_tasks_started_at_once_seed_once(world: World) -> None:
    async with (
        world.launch() as a,
        world.launch() as b,
        world.launch() as c,
        world.launch() as d,
        world.launch() as e,
    ):
        tasks = [a, b, c, d, e]
        await asyncio.gather(*map(ready, tasks))
        seeded = [line for task in tasks for line in log_lines(task.child.log.read_text()) if line["event"] == "seeded"]
    assert [line["written"] for line in seeded] == [1000]
    assert len(world.rows()) == 1000
    assert await flag(world) == SEED_DONE


async def test_a_seeder_killed_half_way_is_taken_over_within_seconds(world: World) -> None:
    rows = 4000
    async with world.launch(SEED_ROWS=str(rows)) as first:
        await eventually(lambda: len(world.rows()) > 100, what="the first rows")
        async with world.launch(SEED_ROWS=str(rows)) as second:
            first.child.signal(signal.SIGKILL)
            await first.child.wait()
            half = world.rows()
            assert 100 < len(half) < rows
            assert await flag(world) is None
            await ready(second)
            seeded = [line for line in log_lines(second.child.log.read_text()) if line["event"] == "seeded"]
    after = world.rows()
    assert len(after) == rows
    assert {key: after[key] for key in half} == half, "no row that was there has changed"
    # A write that was on its way at the kill may still land after `half` was read.
    assert seeded[0]["already_there"] >= len(half)
    assert seeded[0]["written"] + seeded[0]["already_there"] == rows


async def test_a_flag_over_an_empty_table_is_pointed_out(world: World) -> None:
    async with seeder(world) as (bucket, _):
        await bucket.put(SEED_KEY, SEED_DONE)
    async with world.task() as task:
        warnings = [line["event"] for line in log_lines(task.child.log.read_text()) if line["level"] == "warning"]
    assert any("seed-flag clear" in warning for warning in warnings)
    assert world.rows() == {}


async def test_seeding_can_be_turned_off(world: World) -> None:
    async with world.task(SEED_ROWS="0"):
        assert world.rows() == {}
        assert await flag(world) is None
