"""A load through what DynamoDB and people do to it: each row is there once and right, and the next run goes on."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from local.servers import dynamodb
from operations.load import pace, write
from operations.load.run import Plan, load
from operations.load.show import Report
from operations.load.source import File
from service.contracts import customer as contract
from service.runtime.errors import ServiceError
from tests.operations.loading import csv_of, environment, numbered, running, told, written
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, answer, refusal, stall
from tests.support.world import World, eventually

WRITE = "BatchExecuteStatement"


def keys(call: Call) -> list[str]:
    return [statement["Parameters"][-1]["S"] for statement in call["Statements"]]


def writes(proxy: FaultyDynamoDB) -> list[str]:
    """Return the clients in all calls that came to the proxy."""
    return [key for action, call in proxy.calls if action == WRITE for key in keys(call)]


class Troubles:
    """Throttles, leaves half of a call, answers 500 after or before the write, and cuts the connection."""

    def __init__(self, env: Mapping[str, str], seed: int) -> None:
        self._env = env
        self._random = random.Random(seed)
        self.seen = Counter[str]()

    def __call__(self, action: str, call: Call) -> web.Response | None:
        if action != WRITE:
            return None
        kind = self._random.choice(["", "", "throttled", "half", "lost", "500", "conflict"])
        self.seen[kind] += 1
        if kind == "throttled":
            return refusal("ThrottlingException")
        if kind == "500":
            return refusal("InternalServerError", 500)
        if kind in {"half", "conflict"}:
            code = "ThrottlingError" if kind == "half" else "TransactionConflict"
            return answer({"Responses": self._executed(call, every=2, otherwise={"Error": {"Code": code}})})
        if kind == "lost":
            self._executed(call, every=1, otherwise=None)
            return refusal("InternalServerError", 500)
        return None

    def _executed(self, call: Call, every: int, otherwise: Any) -> list[Any]:
        engine: Any = dynamodb.client(self._env)
        done = call["Statements"][::every]
        found = engine.batch_execute_statement(Statements=done)["Responses"]
        answers = iter(found)
        return [next(answers) if number % every == 0 else otherwise for number in range(len(call["Statements"]))]


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
async def test_each_row_is_there_once_and_right(
    world: World, proxy: FaultyDynamoDB, tmp_path: Path, seed: int, replace: bool
) -> None:
    there = {str(number): 7 for number in range(1, 180, 3)}
    world.put_rows(there)
    rows = numbered(1500)
    proxy.fault = troubles = Troubles(world.servers.dynamodb_env, seed)
    path = written(tmp_path / "rows.csv", csv_of(rows))
    code, found = await told(world, path, *(["--replace"] if replace else []), **proxy.env)
    assert (code, len(found)) == (0, 1), found
    assert world.rows() == (rows if replace else {**rows, **there})
    assert found[0]["written"] + found[0]["there"] == 1500
    assert found[0]["there"] == 0 if replace else found[0]["there"] >= 60
    assert min(troubles.seen[kind] for kind in ("throttled", "half", "lost", "500", "conflict")) > 0


async def test_a_connection_that_comes_back(world: World, proxy: FaultyDynamoDB, tmp_path: Path) -> None:
    rows = numbered(3000)
    path = written(tmp_path / "rows.csv", csv_of(rows))
    proxy.fault = stall(0.05)
    async with running(environment(world, **proxy.env), path) as process:
        await eventually(lambda: len(writes(proxy)) > 300, within_s=30)
        async with proxy.refusing():
            assert process.returncode is None
        assert await process.wait() == 0
    assert world.rows() == rows


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("kind", ["file", "pipe"])
async def test_the_next_run_goes_on_where_one_was_ended(
    world: World, proxy: FaultyDynamoDB, tmp_path: Path, end: signal.Signals, kind: str
) -> None:
    rows = numbered(6000)
    path = written(tmp_path / "rows.csv", csv_of(rows))
    kept = tmp_path / "rows.csv.checkpoint"
    proxy.fault = stall(0.25)  # so it cannot be done within the second before a checkpoint
    arguments = [path] if kind == "file" else ["-", "--checkpoint", str(kept)]
    async with running(environment(world, **proxy.env), *arguments) as process:
        if kind == "pipe":
            assert process.stdin
            process.stdin.write(csv_of(rows).encode())
        await eventually(lambda: kept.exists() and json.loads(kept.read_text())["written"] > 500, within_s=60)
        process.send_signal(end)
        assert process.stderr
        errors = (await process.stderr.read()).decode()
        code = await process.wait()
    assert (code, "Traceback" in errors) == (130 if end == signal.SIGINT else -end, False)
    if end == signal.SIGINT:
        assert errors.endswith(f"error: stopped\nrun the same command again to go on ({kept} says where it is)\n")
    before = json.loads(kept.read_text())["written"]
    assert 500 < before < 6000
    proxy.calls.clear()
    proxy.fault = None
    pipe = csv_of(rows) if kind == "pipe" else ""
    code, found = await told(world, *arguments, pipe=pipe, **proxy.env)
    assert (code, found[0]["earlier"], found[0]["written"] + found[0]["there"]) == (0, before, 6000)
    again = writes(proxy)
    assert set(again) == {str(number) for number in range(before + 1, 6001)}, "only what was left"
    assert (world.rows(), kept.exists()) == (rows, False)


async def test_a_checkpoint_belongs_to_its_rows_its_table_and_its_way(
    world: World, proxy: FaultyDynamoDB, tmp_path: Path
) -> None:
    rows = numbered(100)
    path, kept = tmp_path / "rows.csv", tmp_path / "rows.csv.checkpoint"
    written(path, csv_of(rows))
    proxy.fault = lambda action, call: (
        refusal("AccessDeniedException") if action == WRITE and "60" in keys(call) else None
    )
    code, _ = await told(world, str(path), **proxy.env)
    assert (code, kept.exists()) == (1, True)
    other = f"{world.table}-2"
    await dynamodb.create_table(other, world.servers.dynamodb_env)
    env = environment(world)
    for change, arguments, extra, said in (
        (csv_of({**rows, "100": 1}), [], {}, "the rows are not the same ones, or were changed"),
        (csv_of(numbered(101)), [], {}, "the rows are not the same ones, or were changed"),
        (csv_of(rows), ["--replace"], {}, "without --replace"),
        (csv_of(rows), [], {"DDB_TABLE": other}, f"into table {world.table}"),
        (csv_of(rows), [], {"DDB_BALANCE": "points"}, "with the attributes id and client_balance"),
    ):
        written(path, change)
        async with running({**env, **extra}, str(path), *arguments) as process:
            _, errors = await process.communicate()
        text = errors.decode()
        assert text.startswith(f"error: checkpoint {kept} belongs to another load: {said}; remove it"), text
        assert process.returncode == 1
    written(path, csv_of(rows))
    engine = dynamodb.client(world.servers.dynamodb_env)
    engine.delete_table(TableName=world.table)
    await dynamodb.create_table(world.table, world.servers.dynamodb_env)
    async with running(env, str(path)) as process:
        _, errors = await process.communicate()
    assert f"into table {world.table}, which has been made again" in errors.decode()
    kept.write_text("{}")
    async with running(env, str(path)) as process:
        _, errors = await process.communicate()
    assert f"{kept} is no checkpoint of this program; remove it" in errors.decode()
    kept.unlink()
    assert (await told(world, str(path)))[0] == 0
    assert world.rows() == rows


async def test_a_pipe_with_other_rows_is_refused(world: World, proxy: FaultyDynamoDB, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    rows = numbered(100)
    arguments = ["-", "--checkpoint", str(kept)]
    code, _ = await told(world, *arguments, pipe=f"{csv_of(rows)}101,x\n")
    assert code == 3
    for pipe, said in (
        (csv_of({**rows, "3": 1}), "standard input does not begin as it did when the checkpoint was written"),
        (csv_of(numbered(10)), "standard input ends before the place where the checkpoint is"),
    ):
        async with running(environment(world), *arguments) as process:
            _, errors = await process.communicate(pipe.encode())
        assert (process.returncode, said in errors.decode()) == (1, True), errors
    assert world.rows() == rows


@pytest.mark.usefixtures("aws")
async def test_what_never_answers_ends_the_load_which_can_go_on(
    world: World, proxy: FaultyDynamoDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "PATIENCE_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    path = Path(written(tmp_path / "rows.csv", csv_of(numbered(500))))
    plan = Plan(world.table, contract.ATTRIBUTES, replace=False, checkpoint=tmp_path / "kept", seed_flag=False)
    proxy.fault = lambda action, call: (
        refusal("ProvisionedThroughputExceededException") if action == WRITE and "400" in keys(call) else None
    )
    with pytest.raises(ServiceError) as caught:
        await load(File(path), plan, Report(as_json=True))
    assert str(caught.value) == (
        f"table {world.table}: no row was written for 1 seconds (the database is busy "
        "(ProvisionedThroughputExceededException)); see the table's throttles, the state of AWS and the network"
    )
    proxy.fault = None
    outcome = await load(File(path), plan, Report(as_json=True))
    assert (outcome.resumed, outcome.done.written + outcome.done.there) == (375, 500)
    assert world.rows() == numbered(500)


@pytest.mark.usefixtures("aws")
async def test_fewer_calls_are_in_flight_while_dynamodb_is_busy(
    world: World, proxy: FaultyDynamoDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half as many after each refusal, down to one; one more for each round of calls that goes well."""
    monkeypatch.setattr(pace, "CALM_S", 0.0)
    kept = pace.Pace()
    for _ in range(10):
        kept.is_busy()
    assert kept.limit == 1
    for _ in range(10_000):
        kept.went_well()
    assert kept.limit == pace.MOST
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"])
    path = Path(written(tmp_path / "rows.csv", csv_of(numbered(200))))
    plan = Plan(world.table, contract.ATTRIBUTES, replace=False, checkpoint=None, seed_flag=False)
    refused = iter([refusal("ThrottlingException") for _ in range(6)])
    proxy.fault = lambda action, _: next(refused, None) if action == WRITE else None
    outcome = await load(File(path), plan, Report(as_json=True))
    assert (outcome.done.written, world.rows()) == (200, numbered(200))


async def test_a_file_that_is_changed_while_it_is_read_is_not_taken_for_the_one_that_was_checked(
    tmp_path: Path,
) -> None:
    path = Path(written(tmp_path / "rows.csv", csv_of(numbered(50_000))))
    source = File(path)
    assert [block async for block in source.blocks()]
    blocks = source.blocks()
    await anext(blocks)
    path.write_text(csv_of(numbered(50_001)))
    for reading in (blocks, source.blocks()):
        with pytest.raises(ServiceError, match="was changed while it was read; run it again"):
            assert [block async for block in reading]


async def test_a_refusal_is_named_with_its_line(world: World, proxy: FaultyDynamoDB, tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", csv_of(numbered(3)))
    error = {"Error": {"Code": "AccessDenied", "Message": "not allowed"}}
    proxy.fault = lambda action, _: answer({"Responses": [error] * 3}) if action == WRITE else None
    async with running(environment(world, **proxy.env), path) as process:
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert "AWS refuses to let this task use table" in errors.decode()
    assert "line 2: not allowed" in errors.decode()
