"""`python -m operations.reconcile` finds each balance that is not what its adjustments make it, and no other."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from local.process import ROOT
from local.servers import dynamodb
from operations import reconcile as module
from operations.reconcile import reconcile
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal
from tests.support.ledger.adjusting import adjust
from tests.support.world import World, eventually

Engine = Any


async def command(world: World, *arguments: str, **env: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "operations.reconcile", *arguments, cwd=ROOT,
        env={"PATH": "", **world.servers.dynamodb_env, **env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def put(world: World, client_id: str, sequence: int, points: int, balance: int) -> None:
    dynamodb.client(world.servers.dynamodb_env).put_item(TableName=world.adjustments, Item={
        "client_id": {"S": client_id}, "adjustment_id": {"S": f"z{9 - sequence}"}, "sequence": {"N": str(sequence)},
        "points": {"N": str(points)}, "balance": {"N": str(balance)}, "at": {"S": "2026-01-01T00:00:00.000Z"},
    })  # fmt: skip


def put_client(world: World, client_id: str, balance: int, count: int, rows: list[tuple[int, int, int]]) -> None:
    world.put_item({
        "id": {"S": client_id}, "client_balance": {"N": str(balance)},
        **({"adjustments": {"N": str(count)}} if count else {}),
    })  # fmt: skip
    for row in rows:
        put(world, client_id, *row)


RIGHT: dict[str, tuple[int, int, list[tuple[int, int, int]]]] = {
    "without": (5, 0, []),
    "one": (15, 1, [(1, 5, 15)]),
    "three": (7, 3, [(1, 5, 15), (2, -10, 5), (3, 2, 7)]),
    "to nothing": (0, 1, [(1, -10, 0)]),
}
WRONG: dict[str, tuple[int, int, list[tuple[int, int, int]], str]] = {
    "changed": (8, 3, [(1, 5, 15), (2, -10, 5), (3, 2, 7)], "the balance is 8, and the adjustments make it 7"),
    "gap": (7, 3, [(1, 5, 15), (3, 2, 7)], "adjustment 3 (z6) comes where 2 must come"),
    "lost": (7, 3, [(1, 5, 15), (2, -10, 5)], "the client's row counts 3 adjustments, and there are 2"),
    "all lost": (7, 1, [], "the client's row counts 1 adjustments, and there are 0"),
    "no chain": (7, 3, [(1, 5, 15), (2, -10, 6), (3, 2, 7)], "adjustment 2 (z7) makes 6 of 15 by -10 points"),
    "below": (-1, 0, [], "the balance is -1"),
    "loaded": (999, 0, [(1, 5, 15), (2, -10, 5)], "there is adjustment 2, and the client's row counts 0"),
    "restored": (15, 1, [(1, 5, 15), (2, -10, 5)], "there is adjustment 2, and the client's row counts 1"),
    "foreign": (15, 1, [(1, 5, 15), (7, 1, 9)], "there is adjustment 7, and the client's row counts 1"),
}


async def test_what_differs_is_named_and_nothing_else(world: World) -> None:
    await world.with_adjustments()
    for name, (balance, count, rows) in RIGHT.items():
        put_client(world, name, balance, count, rows)
    tables = {"DDB_TABLE": world.table, "ADJUSTMENTS_TABLE": world.adjustments}
    assert await command(world, **tables) == (
        0, "4 clients with 27 points, 5 adjustments\neach balance is what its adjustments make it\n"
    )  # fmt: skip
    for name, (balance, count, rows, _) in WRONG.items():
        put_client(world, name, balance, count, rows)
    put(world, "nobody", 1, 1, 1)
    world.put_item({"id": {"S": "odd"}, "client_balance": {"S": "x"}})
    code, output = await command(world, "--json", **tables)
    assert code == 3
    found = json.loads(output)
    assert found["differ"] == {
        **{name: problem for name, (*_, problem) in WRONG.items()},
        "nobody": "there are adjustments, and no such client",
        "odd": "the row has no integer client_balance or adjustments",
    }
    assert (found["clients"], found["newer"]) == (len(RIGHT) + len(WRONG) + 1, 5)
    code, output = await command(world, "--balances", world.table, "--adjustments", world.adjustments)
    assert (code, output.splitlines()[-1]) == (3, "11 differ")
    assert "client gap: adjustment 3 (z6) comes where 2 must come" in output


async def test_a_table_that_is_not_there_and_one_that_is_not_named(world: World) -> None:
    code, output = await command(world, DDB_TABLE="not-there", ADJUSTMENTS_TABLE="nor-this")
    assert (code, output) == (1, "error: table not-there does not exist; deploy the stack, or correct DDB_TABLE\n")
    code, output = await command(world, DDB_TABLE=world.table)
    assert (code, "ADJUSTMENTS_TABLE" in output) == (2, True)


@pytest.mark.parametrize("attribute", ["sequence", "points", "balance"])
async def test_an_adjustment_without_its_numbers_is_named(world: World, attribute: str) -> None:
    await world.with_adjustments()
    put_client(world, "c", 15, 1, [(1, 5, 15)])
    row: dict[str, Any] = {
        "client_id": {"S": "c"}, "adjustment_id": {"S": "odd"}, "sequence": {"N": "2"}, "points": {"N": "1"},
        "balance": {"N": "1"},
    }  # fmt: skip
    engine = dynamodb.client(world.servers.dynamodb_env)
    for odd in (None, {"N": "1.5"}):
        row = {name: value for name, value in {**row, attribute: odd}.items() if value}
        engine.put_item(TableName=world.adjustments, Item=row)
        code, output = await command(world, "--json", DDB_TABLE=world.table, ADJUSTMENTS_TABLE=world.adjustments)
        assert (code, json.loads(output)["differ"]) == (
            3, {"c": "adjustment 'odd' has no integer sequence, points, balance"},
        )  # fmt: skip


async def test_tables_that_are_swapped_are_said_to_be(world: World) -> None:
    await world.with_adjustments()
    put_client(world, "c", 15, 1, [(1, 5, 15)])
    code, output = await command(world, DDB_TABLE=world.adjustments, ADJUSTMENTS_TABLE=world.table)
    assert (code, output) == (
        1, f"error: table {world.adjustments} has a row without the text id; correct DDB_TABLE\n"
    )  # fmt: skip
    code, output = await command(world, DDB_TABLE=world.table, ADJUSTMENTS_TABLE=world.table)
    assert (code, output) == (
        1, f"error: table {world.table} has a row without the text client_id; correct ADJUSTMENTS_TABLE\n"
    )  # fmt: skip


@pytest.mark.parametrize("segments", [1, 5])
async def test_it_is_exact_while_tasks_adjust(
    world: World, proxy: FaultyDynamoDB, monkeypatch: pytest.MonkeyPatch, segments: int
) -> None:
    """Rows that come between the two scans, and calls that fail, make no difference."""
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    world.put_rows({f"c{number}": 100 for number in range(50)})
    env = await world.with_adjustments()
    stop, made = asyncio.Event(), 0

    async with world.task(**env), world.client("teller") as teller:

        async def load(number: int) -> None:
            nonlocal made
            step = 0
            while not stop.is_set():
                step += 1
                code, _ = await adjust(
                    teller, f"c{(step * 7 + number) % 50}", -1 if step % 2 else 3, f"{number}-{step}"
                )
                assert code == "OK"
                made += 1

        loads = [asyncio.create_task(load(number)) for number in range(20)]
        await eventually(lambda: made > 100)
        for number in range(2):
            fails = iter([True, False] * 3)
            proxy.fault = lambda *_, fails=fails: refusal("ThrottlingException") if next(fails, False) else None
            found = await reconcile(world.table, world.adjustments, segments=segments)
            assert (found.differ, found.clients) == ({}, 50), number
        stop.set()
        await asyncio.gather(*loads)
    proxy.fault = None
    found = await reconcile(world.table, world.adjustments, segments=segments)
    assert (found.differ, found.adjustments, found.newer) == ({}, made, 0)
    assert found.points == sum(world.rows().values())


def test_the_sum_of_places_recognizes_a_chain() -> None:
    chain = [(1, 5, 15), (2, -10, 5), (3, 2, 7)]
    for rows, is_right in (
        (chain, True), (chain[::-1], True), (chain[:2], False), (chain[1:], False), ([*chain, (3, 2, 7)], False),
        ([chain[0], chain[0], chain[2]], False), ([(1, 5, 15), (2, -9, 6), (3, 1, 7)], True),
        ([(1, 5, 16), *chain[1:]], False), ([(1, 5, 15), (2, -10, 6), (3, 2, 7)], False),
    ):  # fmt: skip
        account = module.Account(7, 3)
        for row in rows:
            account.add(*row)
        assert account.is_right is is_right, rows
