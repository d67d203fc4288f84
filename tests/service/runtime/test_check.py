"""`python -m service --check`: for a deployer before, for an operator during trouble."""

from __future__ import annotations

import asyncio

import pytest

from service.contracts.customer import BUCKET, SEED_DONE, SEED_KEY
from service.contracts.stream import STREAM
from service.nats.permissions import allows
from tests.support.check import check
from tests.support.world import World


async def test_all_is_there(world: World) -> None:
    code, lines = await check(world)
    assert (code, lines) == (
        0,
        [
            f"ok       NATS at {world.nats_url}",
            "ok       permissions",
            f"ok       stream {STREAM}, which acknowledges events by the batch",
            f"ok       bucket {BUCKET}, no seed flag: the first task will seed",
            f"ok       table {world.table}, no row 1",
        ],
    )
    assert await world.last_sequence() == 0
    assert world.rows() == {}, "it writes nothing"
    world.put_rows({"1": 100})
    async with world.administrator() as admin:
        await (await admin.key_value(BUCKET)).put(SEED_KEY, SEED_DONE)
    _, lines = await check(world)
    assert lines[-2:] == [
        f"ok       bucket {BUCKET}, the seed flag is set",
        f"ok       table {world.table}, row 1 is there",
    ]


async def test_it_takes_no_request_from_the_tasks(world: World) -> None:
    async with world.task(), world.client() as client:
        checking = asyncio.create_task(check(world))
        while not checking.done():
            await client.request("customer.balance", b'{"client_id":"7"}', timeout=2)
        assert (await checking)[0] == 0


async def test_everything_that_is_missing_is_named(world: World) -> None:
    async with world.administrator() as admin:
        await admin.delete_stream(STREAM)
        await admin.delete_key_value(BUCKET)
    code, lines = await check(world, DDB_TABLE="not-there")
    assert code == 1
    assert lines[2:] == [
        f"missing  stream {STREAM} does not exist; make it with `python -m control_plane create`",
        f"missing  KV bucket {BUCKET} does not exist; make it with `python -m control_plane create`",
        "missing  table not-there does not exist; deploy the stack, or correct DDB_TABLE",
    ]


async def test_a_bad_setting_is_one_line(world: World) -> None:
    code, lines = await check(world, NATS_URL="x")
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("error: NATS_URL is not valid: must be one or more of nats://HOST:PORT")


@pytest.mark.parametrize(
    ("rules", "subject", "verdict"),
    [
        (None, "a", True),
        ({}, "a", True),
        ({"allow": ["a"]}, "a", True),
        ({"allow": ["a"]}, "a.b", False),
        ({"allow": ["a.*"]}, "a.b", True),
        ({"allow": ["a.*"]}, "a", False),
        ({"allow": ["a.>"]}, "a.b.c", True),
        ({"allow": ["a.>"]}, "a", False),
        ({"allow": [">"], "deny": ["a.*"]}, "a.b", False),
        ({"deny": ["b"]}, "a", True),
        ({"allow": ["a q"]}, "a q", True),
        ({"allow": ["a q"]}, "a r", False),
        ({"allow": ["a"]}, "a q", True),
    ],
)
def test_rules_as_the_server_applies_them(rules: dict[str, list[str]] | None, subject: str, verdict: bool) -> None:
    assert allows(rules, subject) is verdict
