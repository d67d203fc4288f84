"""`python -m service --check`: for a deployer before, for an operator during trouble."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from control_plane import claims
from control_plane.desired import ACCOUNT
from local.process import ROOT
from service.customer.contract import BUCKET, SEED_DONE, SEED_KEY, STREAM
from service.runtime.permissions import allows
from tests.support.world import Servers, World, make_world

NOWHERE = "nats://127.0.0.1:9"
SERVICE = ACCOUNT.user("service")
WITHOUT = {f"$KV.{BUCKET}.{SEED_KEY}", f"$JS.API.DIRECT.GET.KV_{BUCKET}.$KV.{BUCKET}.{SEED_KEY}"}
NARROW = replace(
    SERVICE,
    publish=tuple(subject for subject in SERVICE.publish if subject not in WITHOUT),
    subscribe=tuple(subject for subject in SERVICE.subscribe if not subject.startswith("customer.balance")),
)


async def check(world: World, **env: str) -> tuple[int, list[str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "--check", cwd=ROOT, env=world.service_env(**env),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode().splitlines()


@dataclass
class Waiting:
    """Checks that wait, seconds each, for answers that do not come: all are started at once."""

    world: World
    without_a_server: asyncio.Task[tuple[int, list[str]]]
    another_user: asyncio.Task[tuple[int, list[str]]]
    too_narrow: asyncio.Task[tuple[int, list[str]]]


@pytest.fixture(scope="module")
async def waiting(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Waiting]:
    async with make_world(servers, tmp_path_factory.mktemp("check")) as world:

        def start(**env: str) -> asyncio.Task[tuple[int, list[str]]]:
            return asyncio.create_task(check(world, **env))

        yield Waiting(
            world,
            without_a_server=start(NATS_URL=NOWHERE),
            another_user=start(NATS_CREDENTIALS=encoded(world.creds("client"))),
            too_narrow=start(NATS_CREDENTIALS=encoded(claims.mint_creds(
                NARROW, world.account, account=world.account.public
            ))),
        )  # fmt: skip


def encoded(creds: str) -> str:
    return base64.b64encode(creds.encode()).decode()


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


@pytest.mark.xdist_group("check")
async def test_another_users_credentials(waiting: Waiting) -> None:
    code, lines = await waiting.another_user
    assert code == 1
    assert any(line.startswith("note     permissions: the server does not tell") for line in lines)
    assert any(line.startswith(f"missing  stream {STREAM} cannot be read: no answer") for line in lines)


@pytest.mark.xdist_group("check")
async def test_permissions_that_are_too_narrow_are_named(waiting: Waiting) -> None:
    code, lines = await waiting.too_narrow
    assert code == 1
    (line,) = [line for line in lines if line.startswith("missing  no permission")]
    assert line == (
        f"missing  no permission to publish to $KV.{BUCKET}.{SEED_KEY}, "
        f"publish to $JS.API.DIRECT.GET.KV_{BUCKET}.$KV.{BUCKET}.{SEED_KEY}, "
        "subscribe to customer.balance q; use the credentials of user `service`"
    )
    assert any(line.startswith(f"missing  key {SEED_KEY} of bucket {BUCKET} cannot be read") for line in lines)
    assert not any("Traceback" in line for line in lines)


@pytest.mark.xdist_group("check")
async def test_no_server(waiting: Waiting) -> None:
    code, lines = await waiting.without_a_server
    assert code == 1
    missing = [line for line in lines if line.startswith("missing")]
    assert len(missing) == 1
    assert missing[0].startswith(f"missing  no NATS server at {NOWHERE}")
    assert lines[-1] == f"ok       table {waiting.world.table}, no row 1", "what can be looked at is looked at"


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
