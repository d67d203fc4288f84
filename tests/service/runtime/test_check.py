"""`python -m service --check`: for a deployer before, for an operator during trouble."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from dataclasses import replace
from typing import Final

import pytest

from control_plane.auth import claims
from control_plane.desired import EVERYTHING
from local.servers import dynamodb
from service.contracts.customer import BUCKET, FIGURES, NEEDED, SEED_DONE, SEED_KEY, SUBSCRIBED
from service.contracts.stream import EVENT_PREFIX, STREAM
from service.nats.permissions import allows
from tests.support.check import check
from tests.support.world import World

NO_ADJUSTMENTS: Final = (
    "note     adjustments: ADJUSTMENTS_TABLE is not set, so customer.adjust and customer.statement are not served"
)


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
            NO_ADJUSTMENTS,
        ],
    )
    assert await world.last_sequence() == 0
    assert world.rows() == {}, "it writes nothing"
    world.put_rows({"1": 100})
    async with world.administrator() as admin:
        await (await admin.key_value(BUCKET)).put(SEED_KEY, SEED_DONE)
    _, lines = await check(world)
    assert lines[-3:-1] == [
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
        NO_ADJUSTMENTS,
    ]


async def test_the_table_of_adjustments_is_there_or_what_it_lacks_is_named(world: World) -> None:
    env = await world.with_adjustments()
    _, lines = await check(world, **env)
    assert lines[-1] == f"ok       adjustments, table {world.adjustments}"
    code, lines = await check(world, ADJUSTMENTS_TABLE="not-there")
    assert (code, lines[-1]) == (
        1, "missing  table not-there does not exist; deploy the stack, or correct ADJUSTMENTS_TABLE",
    )  # fmt: skip
    code, lines = await check(world, ADJUSTMENTS_TABLE=world.table)
    assert code == 1
    assert lines[-1].endswith(
        "see that it has the keys client_id and adjustment_id (S), and the local index by_sequence on sequence (N)"
    )
    await dynamodb.create_table(f"{world.table}-plain", world.servers.dynamodb_env, ("client_id", "adjustment_id"))
    code, lines = await check(world, ADJUSTMENTS_TABLE=f"{world.table}-plain")
    assert (code, "local index by_sequence" in lines[-1]) == (1, True)


async def test_what_adjustments_alone_take_is_asked_for_with_their_table_alone(world: World) -> None:
    """A task of the new version starts with what an earlier control plane made."""
    async with world.administrator() as admin:
        config = (await admin.stream_info(STREAM)).config
        config.subjects = [EVENT_PREFIX + ">"]
        await admin.update_stream(config)
    earlier = replace(EVERYTHING.user("service"), publish=(*NEEDED, *FIGURES), subscribe=SUBSCRIBED)
    creds = claims.mint_creds(earlier, world.account, account=world.account.public)
    env = {"NATS_CREDENTIALS": b64encode(creds.encode()).decode()}
    assert (await check(world, **env))[0] == 0
    code, (_, permissions, stream, *_) = await check(world, **env, **await world.with_adjustments())
    assert code == 1
    subjects = "publish to customer.adjusted.*, subscribe to customer.adjust q, subscribe to customer.statement q"
    assert permissions.startswith(f"missing  no permission to {subjects}; use the credentials of user `service`")
    assert stream.startswith(f"missing  stream {STREAM} does not take customer.adjusted.*; correct it with")


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
