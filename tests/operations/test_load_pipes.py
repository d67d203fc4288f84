"""A load that ends before its rows do: a pipe is cut off, a call fails beside a bad line, a person ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from local.servers import dynamodb
from operations.load.read import check
from operations.load.source import File
from tests.operations.loading import command, csv_of, load, numbered, told, written
from tests.operations.test_load_faults import WRITE, keys
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal
from tests.support.world import World

CUT = {"line": 3, "column": "line", "reason": "has no line feed: the pipe may be cut off"}


@pytest.mark.parametrize("bad", ["1,5", "101,x"])
async def test_a_call_that_fails_is_named_though_a_line_is_bad(
    world: World, proxy: FaultyDynamoDB, tmp_path: Path, bad: str
) -> None:
    """And the next run goes on where this one was."""
    kept = tmp_path / "kept"

    async def fault(action: str, call: Call) -> web.Response | None:
        if action == WRITE and "60" in keys(call):
            await asyncio.sleep(0.5)  # the bad line is read meanwhile
            return refusal("AccessDeniedException")
        return None

    proxy.fault = fault
    pipe = csv_of(numbered(100))
    code, _, errors = await load(world, "-", "--checkpoint", str(kept), pipe=f"{pipe}{bad}\n", **proxy.env)
    assert (code, kept.exists()) == (1, True), errors
    assert "AWS refuses to let this task use table" in errors
    assert f"run the same command again to go on ({kept} says where it is)" in errors
    code, _ = await told(world, "-", "--checkpoint", str(kept), pipe=pipe)
    assert (code, world.rows(), kept.exists()) == (0, numbered(100), False)


async def test_a_pipe_that_is_cut_off_in_a_balance(world: World) -> None:
    pipe = "client_id,balance\n1,12345\n2,12"
    code, found = await told(world, "-", pipe=pipe)
    assert (code, found[0], world.rows()) == (3, CUT, {"1": 12345})
    assert await told(world, "-", "--dry-run", pipe=pipe) == (3, [CUT, {"rows": 1, "bad": 1}])
    code, found = await told(world, "-", pipe="client_id,balance")
    assert (code, found[0]) == (3, {**CUT, "line": 1})


async def test_a_last_line_without_a_line_feed_that_is_whole(world: World, tmp_path: Path) -> None:
    """Half of a line of JSON is no JSON; and the end of a file is its end."""
    assert (await told(world, "-", pipe='{"client_id":"1","balance":5}'))[0] == 0
    assert (await told(world, written(tmp_path / "rows.csv", "client_id,balance\n2,6")))[0] == 0
    assert world.rows() == {"1": 5, "2": 6}


async def test_a_client_who_was_replaced_and_adjusts_before_the_answer_is_there(
    world: World, proxy: FaultyDynamoDB, tmp_path: Path
) -> None:
    world.put_rows({"1": 7})
    engine = dynamodb.client(world.servers.dynamodb_env)
    lost: list[Call] = []

    def fault(action: str, call: Call) -> web.Response | None:
        if action != WRITE or lost or "UPDATE" not in call["Statements"][0]["Statement"]:
            return None
        lost.append(call)
        engine.batch_execute_statement(Statements=call["Statements"])
        engine.update_item(
            TableName=world.table, Key={"id": {"S": "1"}}, UpdateExpression="SET client_balance = :b, adjustments = :n",
            ConditionExpression="client_balance = :o",
            ExpressionAttributeValues={":b": {"N": "110"}, ":n": {"N": "1"}, ":o": {"N": "100"}},
        )  # fmt: skip
        return refusal("InternalServerError", 500)

    proxy.fault = fault
    code, found = await told(world, written(tmp_path / "rows.csv", csv_of({"1": 100})), "--replace", **proxy.env)
    assert (code, len(lost), world.rows()) == (3, 1, {"1": 110})
    assert found[0]["reason"].startswith("has adjustments now; it may have been replaced before")


async def test_a_check_of_a_file_can_be_ended(tmp_path: Path) -> None:
    """Ctrl-C cancels a task, which takes effect where it waits."""
    file = File(Path(written(tmp_path / "rows.csv", csv_of(numbered(50_000)))))
    checking = asyncio.create_task(check(file, lambda *_: None, lambda *_: None))
    await asyncio.sleep(0)  # it begins
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking


async def test_a_file_that_is_no_text_has_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("client_id,balance\n1,5\n".encode("utf-16"))
    code, output, errors = await command({"PATH": ""}, str(path), "--dry-run")
    assert (code, output, errors) == (3, "line 1, header: is not UTF-8\n0 rows are good, 1 lines are bad\n", "")
