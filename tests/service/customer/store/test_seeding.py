"""However many start, and whoever dies: one set of rows, one flag."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
import pytest
from nats.js.errors import KeyNotFoundError, ServiceUnavailableError
from nats.js.kv import KeyValue
from structlog.testing import capture_logs

from local.system import ready
from service.contracts.customer import BUCKET, SEED_DONE, SEED_KEY, SEED_LEASE_KEY
from service.customer.store import seeding
from service.customer.store.seeding import LEASE_S, Timing, is_seeded, seed
from service.dynamodb.table import Table
from service.runtime.errors import ServiceError
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal
from tests.support.dynamodb.table import open_table
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


NO_ANSWER = nats.errors.TimeoutError()
NO_LEADER = ServiceUnavailableError(code=503, description="no leader")


class Troubled:
    """A bucket whose calls fail as told, each in its turn; None: this one does not."""

    def __init__(self, bucket: KeyValue, **errors: Iterable[Exception | None]) -> None:
        self.errors = {name: iter(turns) for name, turns in errors.items()}
        self._bucket = bucket

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **options: Any) -> Any:
            if error := next(self.errors.get(name, iter(())), None):
                raise error
            return await getattr(self._bucket, name)(*arguments, **options)

        return call


async def test_a_bucket_that_does_not_answer_is_waited_for_and_then_said(world: World) -> None:
    timing = Timing(bucket_patience_s=1.0)
    async with seeder(world) as (bucket, table):
        deaf = Troubled(bucket, get=itertools.repeat(NO_ANSWER))
        with pytest.raises(ServiceError, match="bucket config"):
            await seed(deaf, table, 10, "me", timing=timing)  # type: ignore[arg-type]
        assert world.rows() == {}
        slow = Troubled(bucket, get=[NO_ANSWER, NO_LEADER])
        await seed(slow, table, 10, "me", timing=timing)  # type: ignore[arg-type]
    assert len(world.rows()) == 10


async def test_a_renewal_or_a_release_that_fails_stops_nothing(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    for error in (NO_ANSWER, NO_LEADER):
        renewed = asyncio.Event()

        async def hold(_action: str, _call: object, renewed: asyncio.Event = renewed) -> None:
            await renewed.wait()

        def turns(error: Exception = error, renewed: asyncio.Event = renewed) -> Iterator[Exception | None]:
            """Taken, not renewed, renewed."""
            yield None
            yield error
            renewed.set()

        proxy.fault = hold
        async with seeder(world) as (bucket, table):
            with capture_logs() as logs:
                troubled = Troubled(bucket, update=turns(), delete=[error])
                await seed(troubled, table, 5, "me", timing=Timing(renew_s=0.05))  # type: ignore[arg-type]
            await bucket.delete(SEED_KEY)
            await bucket.delete(SEED_LEASE_KEY)
        assert [line["event"] for line in logs if line["log_level"] != "debug"] == [
            "seeding", "seeding lease not renewed", "seeded",
        ]  # fmt: skip
    assert len(world.rows()) == 5


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
        with capture_logs() as logs:
            await bucket.put(SEED_LEASE_KEY, b"another")
            await eventually(lambda: "another task is seeding" in [line["event"] for line in logs])
        proxy.fault = None
        let_go.set()
        await bucket.put(SEED_KEY, SEED_DONE)
        await slow
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


async def test_a_table_that_stays_busy_is_said(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    proxy.fault = lambda *_: refusal("ThrottlingException")
    async with seeder(world) as (bucket, table):
        with pytest.raises(ServiceError, match=r"cannot be seeded \(the database is busy \("):
            await seed(bucket, table, 5, "me", timing=Timing(insert_patience_s=0.3))


async def test_five_tasks_started_at_once_seed_once(world: World) -> None:
    world = world.seeded(1_000)
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
    assert 0 < seeded[0]["seconds"] < 30
    assert len(world.rows()) == 1000
    assert await flag(world) == SEED_DONE


async def test_a_seeder_killed_half_way_is_taken_over_within_seconds(world: World, proxy: FaultyDynamoDB) -> None:
    rows, puts, killed = 400, 0, asyncio.Event()

    async def half_way(action: str, _call: object) -> None:
        nonlocal puts
        puts += action == "PutItem"
        if puts > rows // 2:
            await killed.wait()

    proxy.fault = half_way
    async with world.launch(health_port=0, SEED_ROWS=str(rows), **proxy.env) as first:
        await eventually(lambda: len(world.rows()) == rows // 2, within_s=30, what="half of the rows")
        async with world.launch(health_port=0, SEED_ROWS=str(rows), **proxy.env) as second:
            first.child.signal(signal.SIGKILL)
            await first.child.wait()
            half = world.rows()
            assert len(half) == rows // 2
            assert await flag(world) is None
            killed.set()
            async with asyncio.timeout(10):
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


async def test_a_bucket_that_is_read_and_takes_no_write_is_said_in_one_line(world: World) -> None:
    timing = Timing(bucket_patience_s=1.0)
    seeding._failing._kinds.clear()
    async with seeder(world) as (bucket, table):
        async with world.administrator() as admin:
            config = (await admin.stream_info(f"KV_{BUCKET}")).config
            config.sealed = True
            await admin.update_stream(config)
        with capture_logs() as logs, pytest.raises(ServiceError, match=r"bucket config cannot be written: .*sealed"):
            await seed(bucket, table, 10, "me", timing=timing)
    assert world.rows() == {}
    assert [line["problem"] for line in logs if line["log_level"] == "warning"] == ["cannot be written"]
