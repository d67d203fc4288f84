"""`python -m operations.load` on the real engine: what is checked, written, left, replaced and refused."""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from aiohttp import web

from local.process import ROOT
from local.servers import dynamodb
from operations.load import show
from operations.load.show import Progress
from operations.reconcile import reconcile
from service.contracts import customer as contract
from service.customer.store.seeding import is_seeded
from tests.operations.loading import (
    HEADER,
    command,
    csv_of,
    environment,
    items,
    load,
    numbered,
    running,
    told,
    written,
)
from tests.support.dynamodb.faulty import FaultyDynamoDB
from tests.support.ledger.adjusting import adjust, ask
from tests.support.world import World, eventually

RULE = "1 to 128 characters, no white space or control character, no . * >"
DONE = {"written": 0, "there": 0, "refused": 0, "earlier": 0}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "pipe"])
async def test_rows_are_what_customer_create_writes(world: World, tmp_path: Path, kind: str) -> None:
    """A client that the service makes, and one that is loaded, differ in nothing but the balance."""
    async with world.task(**await world.with_adjustments()), world.client("registrar") as registrar:
        body = {"client_id": "made", "name": "Jo Doe", "created_at": "2024-01-23T10:00:00+02:00"}
        assert (await ask(registrar, contract.CREATE_SUBJECT, body))[0] == "OK"
        loaded = {**body, "client_id": "loaded", "balance": 7120}
        if kind == "jsonl":
            text = f"{json.dumps(loaded)}\n\n{json.dumps({'client_id': 'bare', 'balance': 5})}"
        else:
            text = csv_of(["loaded,7120,Jo Doe,2024-01-23T10:00:00+02:00", "bare,5,,"], HEADER)
        where, pipe = ("-", text) if kind == "pipe" else (written(tmp_path / f"rows.{kind}", text), "")
        assert await told(world, where, pipe=pipe) == (0, [{**DONE, "written": 2}])
        rows = {row["id"]["S"]: row for row in items(world)}
        assert rows["loaded"] == {**rows["made"], "id": {"S": "loaded"}, "client_balance": {"N": "7120"}}
        assert rows["bare"] == {"id": {"S": "bare"}, "client_balance": {"N": "5"}}
        async with world.client("teller") as teller:
            assert orjson.loads((await adjust(teller, "loaded", -20, "a"))[1])["balance"] == 7100
            assert (await ask(teller, contract.SUBJECT, {"client_id": "bare"}))[1] == b'{"balance":5}'
            asked = {"client_id": "loaded", "consistent": True}
            got = orjson.loads((await ask(teller, contract.GET_SUBJECT, asked))[1])
            told_of = {"client_id": "loaded", "name": "Jo Doe", "created_at": "2024-01-23T08:00:00Z"}
            assert got == {**told_of, "balance": 7100}


async def test_a_dry_run_shows_every_bad_line_and_writes_nothing(world: World, tmp_path: Path) -> None:
    text = csv_of(["1,5,,", "2,x,,", "3,5,,2024-02-30", "a b,5,,", "", "1,7,,", "4,5", "5,5,Jo,"], HEADER)
    path = written(tmp_path / "rows.csv", text)
    lines = [
        (3, "balance", "must be an integer from 0 to 9007199254740991"),
        (4, "created_at", "must be an ISO date or date-time, such as 2024-01-23 or 2024-01-23T10:00:00Z"),
        (5, "client_id", f"must be one NATS subject token: {RULE}"),
        (8, "line", "has 2 fields, and the header 4"),
        (7, "client_id", "is the one of line 2 too"),
    ]  # fmt: skip
    shown = [f"line {line}, {column}: {why}".replace(", line:", ":") for line, column, why in lines]
    code, output, errors = await command({"PATH": ""}, path, "--dry-run")
    assert (code, output.splitlines(), errors) == (3, [*shown, "3 rows are good, 5 lines are bad"], "")
    code, found = await told(world, "-", "--dry-run", pipe=text)
    as_json = [dict(zip(("line", "column", "reason"), line, strict=True)) for line in lines]
    assert (code, found) == (3, [*as_json, {"rows": 3, "bad": 5}])
    code, output, errors = await load(world, path)
    *lines_shown, result = output.splitlines()
    assert (code, lines_shown, errors) == (3, shown, "error: a line is bad: nothing was written\n")
    assert result.startswith("0 rows written")
    assert await told(world, path) == (3, [*as_json, DONE])
    assert (items(world), [file.name for file in tmp_path.iterdir()]) == ([], ["rows.csv"])


async def test_good_rows_pass_a_dry_run(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "\ufeff" + csv_of(numbered(20_000)))
    assert await command({"PATH": ""}, path, "--dry-run") == (0, "20,000 rows are good\n", "")


async def test_what_is_there_is_left_and_replaced_on_request(world: World, tmp_path: Path) -> None:
    world.put_item({"id": {"S": "1"}, "client_balance": {"N": "7"}, "name": {"S": "Jo"}, "tier": {"S": "gold"}})
    path = written(tmp_path / "rows.csv", csv_of(numbered(60)))
    assert await told(world, path) == (0, [{**DONE, "written": 59, "there": 1}])
    assert world.rows() == {**numbered(60), "1": 7}
    path = written(tmp_path / "rows.csv", csv_of(["1,8,,2024-01-23", "61,9,Al,", "2,3,Bo,"], HEADER))
    assert await told(world, path, "--replace") == (0, [{**DONE, "written": 3}])
    assert world.rows() == {**numbered(60), "1": 8, "61": 9, "2": 3}
    rows = {row["id"]["S"]: row for row in items(world)}
    kept = {"name": {"S": "Jo"}, "tier": {"S": "gold"}, "created_at": {"S": "2024-01-23"}}
    assert rows["1"] == {"id": {"S": "1"}, "client_balance": {"N": "8"}, **kept}
    assert rows["2"] == {"id": {"S": "2"}, "client_balance": {"N": "3"}, "name": {"S": "Bo"}}


@pytest.mark.usefixtures("aws")
async def test_a_client_with_adjustments_is_not_replaced(world: World, tmp_path: Path) -> None:
    """His count and balance belong to the ledger, which stays right whatever is loaded."""
    world.put_rows({"1": 10, "2": 20, "3": 30})
    path = written(tmp_path / "rows.csv", csv_of(numbered(40)))
    async with world.task(**await world.with_adjustments()), world.client("teller") as teller:
        assert (await adjust(teller, "2", 5, "a"))[0] == "OK"
        code, found = await told(world, path, "--replace")
        why = "has adjustments, so its balance is not replaced; correct it with customer.adjust"
        refused = {"line": 3, "column": "client_id", "reason": why}
        assert (code, found) == (3, [refused, {**DONE, "written": 39, "refused": 1}])
        assert world.rows() == {**numbered(40), "2": 25}
        assert (await adjust(teller, "2", 77, "correction"))[0] == "OK"
        assert (await adjust(teller, "1", 1, "b"))[0] == "OK"
    right = await reconcile(world.table, world.adjustments, segments=2)
    assert (right.differ, right.adjustments) == ({}, 3)
    assert world.rows() == {**numbered(40), "1": 102}


async def test_no_task_adds_random_rows(world: World, tmp_path: Path) -> None:
    """The flag is there before the first row: a task that starts while the load waits for it adds none."""
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    assert await told(world, path) == (0, [{**DONE, "written": 3}])
    async with world.task(SEED_ROWS="50"):
        assert world.rows() == numbered(3)
    code, output, errors = await load(world, path)
    assert (code, "3 were there" in output) == (0, True)
    assert errors == "note: the seed flag was set: rows that a task seeded may be there\n"


async def test_the_flag_is_set_before_the_first_row(world: World, proxy: FaultyDynamoDB, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    waiting, go = asyncio.Event(), asyncio.Event()

    async def fault(action: str, _: Any) -> web.Response | None:
        if action == "BatchExecuteStatement":
            waiting.set()
            await go.wait()
        return None

    proxy.fault = fault
    async with running(environment(world, **proxy.env), path) as process:
        await waiting.wait()
        async with world.task(SEED_ROWS="50"):
            assert world.rows() == {}
            go.set()
            assert await process.wait() == 0
    assert world.rows() == numbered(3)


async def test_a_task_that_is_seeding_is_waited_for(world: World, tmp_path: Path) -> None:
    """It looks at the flag once, when it begins: its rows must be there before those of the file."""
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    async with world.client("service") as client:
        bucket = await client.jetstream().key_value(contract.BUCKET)
        await bucket.put(contract.SEED_LEASE_KEY, b"a task")
        async with running(environment(world), path) as process:
            await eventually(partial(is_seeded, bucket), within_s=30)
            for _ in range(8):
                await bucket.put(contract.SEED_LEASE_KEY, b"a task")
                await asyncio.sleep(0.25)
                assert items(world) == []
            await bucket.delete(contract.SEED_LEASE_KEY)
            _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"note: a task was seeding random rows, and has ended: they are there\n")
    assert world.rows() == numbered(3)


async def test_without_nats_nothing_is_written_unless_it_is_said(world: World, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    remedy = ("set NATS_URL and NATS_CREDENTIALS as the service has them, or say --no-seed-flag where no task seeds "
              "(SEED_ROWS=0)")  # fmt: skip
    env = environment(world)
    for problem, nats in (
        ("there is no NATS_URL", {"NATS_URL": "", "NATS_CREDENTIALS": ""}),
        ("no NATS server at nats://127.0.0.1:9", {"NATS_URL": "nats://127.0.0.1:9"}),
        ("NATS_CREDENTIALS is not valid", {"NATS_CREDENTIALS": "secret"}),
    ):
        code, output, errors = await command({**env, **nats}, path)
        assert (code, output) == (1, "")
        assert errors.startswith(f"error: the seed flag cannot be set: {problem}"), errors
        assert (remedy in errors, "secret" in errors, "Traceback" in errors) == (True, False, False)
    assert items(world) == []
    alone = {name: value for name, value in env.items() if not name.startswith("NATS_")}
    assert (await command(alone, path, "--no-seed-flag"))[0] == 0
    assert world.rows() == numbered(3)
    async with world.task(SEED_ROWS="5"):
        assert world.rows().keys() == numbered(5).keys(), "as it was said"


async def test_a_bad_line_ends_a_pipe_after_what_came_before_it(world: World, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    good = csv_of(numbered(100))
    code, found = await told(world, "-", "--checkpoint", str(kept), pipe=f"{good}101,x\n102,5\n")
    bad = {"line": 102, "column": "balance", "reason": "must be an integer from 0 to 9007199254740991"}
    assert (code, found) == (3, [bad, {**DONE, "written": 100}])
    assert world.rows() == numbered(100)
    code, found = await told(world, "-", "--checkpoint", str(kept), pipe=f"{good}101,201\n102,202\n")
    assert (code, found) == (0, [{**DONE, "written": 102, "earlier": 100}])
    assert (world.rows(), kept.exists()) == (numbered(102), False)


async def test_a_pipe_that_has_a_client_twice_says_so(world: World) -> None:
    code, found = await told(world, "-", pipe=csv_of(["1,5", "2,5", "1,5"]))
    twice = {"line": 4, "column": "client_id", "reason": "is the one of line 2 too"}
    assert (code, found[0], found[1]["written"] + found[1]["there"]) == (3, twice, 3)
    assert world.rows() == {"1": 5, "2": 5}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["/nowhere/rows.csv"], 1, "error: /nowhere/rows.csv cannot be read (No such file or directory); correct"),
        ([str(Path(__file__).parent)], 1, "is not a file; give a file, `-` for a pipe, or s3://BUCKET/KEY"),
        ([], 2, "Missing argument"),
        (["rows.csv", "--key", "name"], 2, "name is another attribute of a client"),
        (["rows.csv", "--key", "x", "--balance", "x"], 2, "it is the name of the key"),
    ],
)
async def test_a_users_mistake_is_one_line(world: World, arguments: list[str], code: int, said: str) -> None:
    found, output, errors = await load(world, *arguments)
    assert (found, output, said in " ".join(errors.split())) == (code, "", True), errors
    assert "Traceback" not in errors


async def test_what_is_no_table_of_balances_is_named(world: World, tmp_path: Path) -> None:
    await world.with_adjustments()
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    for table, said in (
        ("not-there", "table not-there does not exist; deploy the stack, or correct DDB_TABLE"),
        (world.adjustments, "has the key client_id (S), adjustment_id (S), and must have the one key id (S)"),
    ):
        code, _, errors = await load(world, path, DDB_TABLE=table)
        assert (code, said in errors) == (1, True), errors
    code, output, errors = await load(world, written(tmp_path / "empty.csv", ""))
    assert (code, errors) == (3, "error: a line is bad: nothing was written\n")
    assert output.startswith("line 1: is missing: there is nothing to load\n0 rows written")
    code, output, errors = await load(world, written(tmp_path / "rows.csv", "x" * 100_000))
    assert (code, "line 1 has more than 65,536 bytes; give CSV or JSON lines" in errors) == (1, True)


async def test_memory_does_not_grow_with_the_file(world: World, tmp_path: Path) -> None:
    """Its peak, by the kernel's count, of a check of ten times as many rows."""
    peaks = []
    for count in (30_000, 300_000):
        path = written(tmp_path / f"{count}.csv", csv_of(numbered(count)))
        code = ("import runpy, sys; sys.argv = ['load', sys.argv[1], '--dry-run']\n"
                "try: runpy.run_module('operations.load', run_name='__main__')\n"
                "except SystemExit: print(open('/proc/self/status').read())")  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, path, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        peaks.append(int(output.partition(b"VmHWM:")[2].split()[0]))
    assert peaks[1] < peaks[0] + 16 * 1024, "KiB"


def test_progress_is_shown_after_two_seconds_to_someone_who_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(show, "time", SimpleNamespace(monotonic=lambda: now))
    for shown in (False, True):
        progress = Progress("loading", 1000, shown=shown, begun_at=100, _began_s=0.0)
        for now, offset, rows in ((1.9, 200, 100), (10.0, 600, 1000), (10.5, 700, 1100)):  # noqa: B007
            progress.show(offset, rows)
        progress.end()
        line = "\rloading: 1,000 rows, 100 rows/s, 60%, 8s left\n"
        assert capsys.readouterr() == ("", line if shown else "")


async def test_an_engine_that_is_away_is_named(world: World, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    async with running(environment(world, AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:9"), path) as process:
        await asyncio.sleep(1)
        assert process.returncode is None, "it may come back"
        process.terminate()
    engine = dynamodb.client(world.servers.dynamodb_env)
    assert engine.scan(TableName=world.table)["Items"] == []
    await eventually(lambda: process.returncode is not None)
