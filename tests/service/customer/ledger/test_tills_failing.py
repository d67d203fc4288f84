"""A till whose calls fail holds up no other client, and what its requesters are told stays true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from local.servers import dynamodb
from service.customer.ledger import tills as module
from service.dynamodb.errors import DynamoDBError, HttpError
from tests.support.ledger.tills import Desk, Shaky, shaky
from tests.support.world import World, eventually

THROTTLED = DynamoDBError(400, "ThrottlingException", "")
BUSY = '{"error":"the database is busy; try again"}'


@pytest.fixture
async def ready(world: World, aws: None) -> World:
    await dynamodb.create_adjustments(world.adjustments, world.servers.dynamodb_env)
    world.put_rows({f"-{name}": 10 for name in ("one", "two", *(f"bad{number}" for number in range(64)))})
    return world


def before_writes(ledger: Shaky, monkeypatch: pytest.MonkeyPatch, do: Callable[[bytes], Awaitable[None]]) -> None:
    """Have each write await `do` first, which may raise."""
    write = ledger.write

    async def shaken(transaction: bytes, entries: int, deadline: float) -> None:
        await do(transaction)
        await write(transaction, entries, deadline)

    monkeypatch.setattr(ledger, "write", shaken)


async def test_clients_that_fail_hold_no_worker(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = True

    async def throttle(transaction: bytes) -> None:
        if fails and b"-bad" in transaction:
            raise THROTTLED

    async with shaky(ready, [], "-") as ledger:
        before_writes(ledger, monkeypatch, throttle)
        desk = Desk(ledger)
        desk.ask([(f"bad{number}", "a", 1) for number in range(module.CONCURRENT)])
        desk.ask([("one", "a", 1)])
        await eventually(lambda: bool(desk.told))
        assert desk.told.keys() == {module.CONCURRENT}
        fails = False
        await eventually(lambda: len(desk.told) == module.CONCURRENT + 1)


async def test_a_client_that_no_worker_serves_is_answered_by_its_deadline(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = asyncio.Event()

    async def hold(_: bytes) -> None:
        await let_go.wait()

    monkeypatch.setattr(module, "CONCURRENT", 1)
    async with shaky(ready, [], "-") as ledger:
        before_writes(ledger, monkeypatch, hold)
        desk = Desk(ledger)
        desk.ask([("one", "a", 1), ("two", "a", 1)], deadline_s=1.0)
        await eventually(lambda: 1 in desk.told)
        assert desk.told == {1: '{"error":"the database did not answer in time; try again"}'}
        desk.ask([("two", "a", 1)])
        let_go.set()
        await eventually(lambda: 2 in desk.told)
        assert desk.told[2].endswith('"balance":11}')
        await eventually(lambda: not desk.tills._tills)


async def test_a_request_in_the_turn_in_which_the_last_worker_ends_is_served(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONCURRENT", 1)
    async with shaky(ready, [], "-") as ledger:
        desk = Desk(ledger)
        settle = desk.tills._settle

        def and_ask(client_id: str, *rest: Any) -> None:
            settle(client_id, *rest)
            if client_id == "-one":
                asyncio.get_running_loop().call_soon(desk.ask, [("two", "a", 1)])

        monkeypatch.setattr(desk.tills, "_settle", and_ask)
        desk.ask([("one", "a", 1)])
        await eventually(lambda: len(desk.told) == 2)


async def test_a_group_that_expired_and_is_then_refused_takes_nobody_with_it(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = list[int]()

    async def fail(transaction: bytes) -> None:
        if b'"old"' in transaction:
            failed.append(len(desk.told))
            raise DynamoDBError(400, "AccessDeniedException", "") if desk.told else HttpError("lost")

    async with shaky(ready, [], "-") as ledger:
        before_writes(ledger, monkeypatch, fail)
        desk = Desk(ledger)
        desk.ask([("one", "old", 1)], deadline_s=1.0)
        await eventually(lambda: bool(failed))
        desk.ask([("one", "new", 1)])
        await eventually(lambda: len(desk.told) == 2)
    assert failed[-1] == 1, "it was refused after it had expired"
    assert "outcome is unknown" in desk.told[0]
    assert desk.told[1].endswith('"balance":11}')


async def test_what_was_said_to_be_busy_is_not_made_later(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = list[int]()

    async def throttle(_: bytes) -> None:
        if not desk.told:
            failed.append(len(desk.told))
            raise THROTTLED

    async with shaky(ready, [], "-") as ledger:
        before_writes(ledger, monkeypatch, throttle)
        desk = Desk(ledger)
        desk.ask([("one", "a", 1)], deadline_s=1.0)
        await eventually(lambda: bool(failed))
        desk.ask([("one", "b", 1)])
        await eventually(lambda: len(desk.told) == 2)
    assert (desk.told[0], desk.told[1].endswith('"balance":11}')) == (BUSY, True)
    assert [row["adjustment_id"] for row in ready.ledger()] == ["b"]


async def test_a_shared_read_that_stalls_leaves_time_for_a_read_of_its_own(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stalled(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    async with shaky(ready, [], "-") as ledger:
        monkeypatch.setattr(ledger.table, "read", stalled)
        desk = Desk(ledger)
        desk.ask([("one", "a", 1)], deadline_s=4.0)
        await eventually(lambda: bool(desk.told))
        assert desk.told[0].endswith('"balance":11}')


async def test_a_transaction_that_was_made_and_is_then_cancelled_keeps_its_answers(ready: World) -> None:
    """Decided again by the rows, the second would be told of the third, which came after it."""
    async with shaky(ready, ["", "", "after", "conflict"], "-") as ledger:
        desk = Desk(ledger)
        desk.ask([("one", "a", -9), ("one", "b", -9), ("one", "b", 5)])
        await eventually(lambda: len(desk.told) == 3)
    assert desk.told[1] == '{"error":"the balance is less than that"}'
    assert desk.told[2].endswith('"points":5,"balance":6}')
    assert [is_new for _, is_new in desk.news] == [True, True]
