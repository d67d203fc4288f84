"""A table with other names of its key and balance serves everywhere: the endpoints, the ledger, seeding, operations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from local.servers import dynamodb
from service.contracts import customer as contract
from service.customer.settings import CustomerSettings
from service.runtime.errors import ServiceError
from service.runtime.settings import load
from tests.operations.loading import command, csv_of, environment, written
from tests.support.ledger.adjusting import adjust, ask, statement
from tests.support.world import World

KEY, BALANCE = "Member#No", "Select -size"
"""With what an expression would take for something else: a blank, a sign, a word of its own."""


@pytest.fixture
async def env(world: World) -> dict[str, str]:
    """A table of the company's, and the variables for it."""
    table = f"{world.table}-theirs"
    await dynamodb.create_table(table, world.servers.dynamodb_env, (KEY,))
    return {**await world.with_adjustments(), "DDB_TABLE": table, "DDB_KEY": KEY, "DDB_BALANCE": BALANCE}


def rows(world: World, env: dict[str, str]) -> dict[str, dict[str, Any]]:
    found = dynamodb.client(world.servers.dynamodb_env).scan(TableName=env["DDB_TABLE"])["Items"]
    return {row[KEY]["S"]: {name: value for name, value in row.items() if name != KEY} for row in found}


async def test_each_endpoint_and_each_program_uses_them(world: World, env: dict[str, str], tmp_path: Path) -> None:
    lines = csv_of(["678,7120,Jo Doe,2024-01-23", "9,90,,"], "client_id,balance,name,created_at")
    given = environment(world, **env)
    code, _, errors = await command(given, written(tmp_path / "rows.csv", lines))
    assert (code, errors) == (0, "")
    row = {BALANCE: {"N": "7120"}, "name": {"S": "Jo Doe"}, "created_at": {"S": "2024-01-23"}}
    assert rows(world, env) == {"678": row, "9": {BALANCE: {"N": "90"}}}

    async with world.task(**env), world.client("teller") as teller, world.client("registrar") as registrar:
        assert await ask(teller, contract.SUBJECT, {"client_id": "678"}) == ("OK", b'{"balance":7120}')
        assert (await adjust(teller, "678", -20, "a"))[0] == "OK"
        assert (await adjust(teller, "678", -9_999, "b"))[0] == "409 INSUFFICIENT_BALANCE"
        assert [each["balance"] for each in await statement(teller, "678")] == [7100]
        made = {"client_id": "new", "name": "Al", "created_at": "2024-01-23"}
        assert (await ask(registrar, contract.CREATE_SUBJECT, made))[0] == "OK"
        assert (await ask(registrar, contract.CREATE_SUBJECT, made))[0] == "OK"
        got = orjson.loads((await ask(teller, contract.GET_SUBJECT, {"client_id": "new", "consistent": True}))[1])
        assert got == {**made, "balance": 0}
    assert rows(world, env)["678"] == {**row, BALANCE: {"N": "7100"}, "adjustments": {"N": "1"}}

    lines = csv_of(["678,1", "9,91"])
    code, output, _ = await command(given, written(tmp_path / "rows.csv", lines), "--replace")
    assert (code, output.splitlines()[0].partition(":")[0]) == (3, "line 2, client_id")
    code, output, errors = await command(given, module="operations.export")
    assert (code, sorted(output.splitlines())) == (
        0, ["678,7100,Jo Doe,2024-01-23", "9,91,,", "client_id,balance,name,created_at", "new,0,Al,2024-01-23"],
    ), errors  # fmt: skip
    code, output, _ = await command(
        {**given, "ADJUSTMENTS_TABLE": world.adjustments}, "--json", module="operations.reconcile"
    )
    assert (code, json.loads(output)["points"]) == (0, 7191)


async def test_seeding_uses_them(world: World, env: dict[str, str]) -> None:
    async with world.task(**{**env, "SEED_ROWS": "20"}):
        found = rows(world, env)
    assert found.keys() == {str(number) for number in range(1, 21)}
    assert all(row.keys() == {BALANCE} for row in found.values())


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"DDB_KEY": "name"}, "DDB_KEY is not valid: name is another attribute of a client"),
        ({"DDB_BALANCE": "adjustments"}, "DDB_BALANCE is not valid: adjustments is another attribute of a client"),
        ({"DDB_BALANCE": "id"}, "DDB_BALANCE is not valid: it is the name of the key, DDB_KEY"),
        ({"DDB_KEY": "client_balance"}, "DDB_BALANCE is not valid: it is the name of the key, DDB_KEY"),
        ({"DDB_KEY": "a'b"}, "DDB_KEY is not valid: must be an attribute's name"),
        ({"DDB_BALANCE": "a.b"}, "DDB_BALANCE is not valid: must be an attribute's name"),
    ],
)
def test_names_that_will_not_do(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str) -> None:
    for name, value in {"DDB_TABLE": "balances", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ServiceError) as caught:
        load(CustomerSettings)
    assert str(caught.value).startswith(said)
