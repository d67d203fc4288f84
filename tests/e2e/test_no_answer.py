"""What a task of each role and `--check` do when an answer does not come, or not for some ten seconds.

All that wait are started at once, and wait beside this file's first test.
"""

from __future__ import annotations

import asyncio
import base64
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.auth import claims
from control_plane.desired import ACCOUNT
from local.process import claim_port
from local.system import ready
from service.contracts import customer as contract
from service.contracts.customer import BUCKET, SEED_KEY
from service.contracts.stream import STREAM
from service.customer.events.events import Events
from service.nats.client import NatsClient
from service.nats.connection import roundtrip
from tests.support.archive import make_archive
from tests.support.check import check
from tests.support.command import finished
from tests.support.own_servers import own_server
from tests.support.queue.sidecar import sidecar_env
from tests.support.world import Servers, World, complaint, eventually, get, log_lines, make_world

pytestmark = pytest.mark.xdist_group("no answer")

NOWHERE = "nats://127.0.0.1:9"
PASSWORD = "s3cr3t-pa55"
WITH_PASSWORD = (f"nats://user:{PASSWORD}@127.0.0.1:9", f"nats://127.0.0.1:9,nats://{PASSWORD}@127.0.0.1:9")
SERVICE = ACCOUNT.user("service")
WITHOUT = {f"$KV.{BUCKET}.{SEED_KEY}", f"$JS.API.DIRECT.GET.KV_{BUCKET}.$KV.{BUCKET}.{SEED_KEY}"}
NARROW = replace(
    SERVICE,
    publish=tuple(subject for subject in SERVICE.publish if subject not in WITHOUT),
    subscribe=tuple(subject for subject in SERVICE.subscribe if not subject.startswith("customer.balance")),
)
Checked = asyncio.Task[tuple[int, list[str]]]
Ended = asyncio.Task[tuple[int, str]]


@dataclass
class Waiting:
    world: World
    check_without_a_server: Checked
    check_of_another_user: Checked
    check_with_too_little: Checked
    task_of_another_user: Ended
    checks_with_a_password: list[Checked]
    tasks_with_a_password: list[Ended]
    archive_without_its_consumer: Ended
    archive_without_its_stream: Ended
    check_of_a_sidecar_without_its_consumer: Ended
    publication_behind_open_batches: asyncio.Task[Published]


@pytest.fixture(scope="module")
async def waiting(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Waiting]:
    async with (
        make_world(servers, tmp_path_factory.mktemp("waiting")) as world,
        make_archive(world) as archive,
    ):

        def checked(**env: str) -> Checked:
            return asyncio.create_task(check(world, **env))

        def ended(**env: str) -> Ended:
            return asyncio.create_task(world.run_to_end(health_port=0, **env))

        another_user = encoded(world.creds("client"))
        too_little = encoded(claims.mint_creds(NARROW, world.account, account=world.account.public))
        yield Waiting(
            world,
            check_without_a_server=checked(NATS_URL=NOWHERE),
            check_of_another_user=checked(NATS_CREDENTIALS=another_user),
            check_with_too_little=checked(NATS_CREDENTIALS=too_little),
            task_of_another_user=ended(NATS_CREDENTIALS=another_user),
            checks_with_a_password=[checked(NATS_URL=url) for url in WITH_PASSWORD],
            tasks_with_a_password=[ended(NATS_URL=url) for url in WITH_PASSWORD],
            archive_without_its_consumer=asyncio.create_task(archive.run_to_end(ARCHIVE_CONSUMER="other")),
            archive_without_its_stream=asyncio.create_task(archive.run_to_end(ARCHIVE_SOURCE="jetstream:other")),
            check_of_a_sidecar_without_its_consumer=asyncio.create_task(
                finished("service", "queue", "--check", **sidecar_env(world), HEALTH_PORT="0", QUEUE_CONSUMER="nobody")
            ),
            publication_behind_open_batches=asyncio.create_task(published_behind_open_batches(world)),
        )


@dataclass
class Published:
    stalled: str | None
    """What the stream said, while events waited."""
    unpublished: int
    published: int
    stored: int


async def published_behind_open_batches(world: World) -> Published:
    """The server takes 1,000 of a stream, and abandons one without traffic after 10 seconds."""
    async with world.administrator() as admin, world.client("service") as client:
        assert isinstance(client, NatsClient)
        events = Events(client)
        await events.start(batched=True)
        for number in range(1000):
            reply = f"{admin._nc.new_inbox()}.open-{number}.100.fail.1.0.$FI"
            await admin._nc.publish("customer.balance.open", b"x", reply=reply)
        await roundtrip(admin._nc)
        for number in range(250):
            events.publish([f"c{number}"], ["{}"])
        await eventually(lambda: events.stalled is not None)
        stalled, unpublished = events.stalled, await events.flush(20)
        await events.close()
    return Published(stalled, unpublished, events.stats.published, await world.last_sequence())


def encoded(creds: str) -> str:
    return base64.b64encode(creds.encode()).decode()


@pytest.mark.usefixtures("waiting")
async def test_a_starting_task_waits_for_nats(world: World, tmp_path: Path) -> None:
    """The server goes away while another task holds the lease to seed."""
    async with own_server(world, tmp_path / "nats") as (own, server):
        looked = asyncio.Event()
        async with own.administrator() as admin:
            bucket = await admin.key_value(contract.BUCKET)
            await bucket.put(contract.SEED_LEASE_KEY, b"another")

            async def look(_: Any) -> None:
                looked.set()

            await admin._nc.subscribe(f"$JS.API.DIRECT.GET.KV_{contract.BUCKET}.>", cb=look)
            await roundtrip(admin._nc)
            async with own.launch(health_port=claim_port(0, "")) as task, asyncio.timeout(60):
                await looked.wait()
                await server.stop()
                await asyncio.sleep(7)  # longer than a request to JetStream waits
                assert task.child.process.returncode is None, task.child.log.read_text()
                await server.start()

                async def is_ready() -> bool:
                    return (await get(f"{task.health_url}/readyz"))[0] == 200

                await eventually(is_ready, within_s=30, what="a task that is ready")
                assert "Traceback" not in task.child.log.read_text()


async def test_a_starting_task_waits_for_a_server_that_stands_still(world: World, tmp_path: Path) -> None:
    """As for a cluster that elects a leader: the connection is there, and no answer comes."""
    async with own_server(world, tmp_path / "nats") as (own, server):
        looked = asyncio.Event()

        async def look(_: Any) -> None:
            looked.set()

        async with own.administrator() as admin:
            await admin._nc.subscribe(f"$JS.API.STREAM.INFO.{STREAM}", cb=look)
            await roundtrip(admin._nc)
            async with own.launch(health_port=claim_port(0, "")) as task, asyncio.timeout(60):
                await looked.wait()
                server.child.signal(signal.SIGSTOP)
                await asyncio.sleep(7)  # longer than a request to JetStream waits
                server.child.signal(signal.SIGCONT)
                await ready(task)


async def test_a_check_with_another_users_credentials(waiting: Waiting) -> None:
    code, lines = await waiting.check_of_another_user
    assert code == 1
    assert any(line.startswith("note     permissions: the server does not say") for line in lines)
    assert any(line.startswith(f"missing  stream {STREAM} cannot be read: no answer") for line in lines)


async def test_a_check_names_permissions_that_are_too_narrow(waiting: Waiting) -> None:
    code, lines = await waiting.check_with_too_little
    assert code == 1
    (line,) = [line for line in lines if line.startswith("missing  no permission")]
    assert line == (
        f"missing  no permission to publish to $KV.{BUCKET}.{SEED_KEY}, "
        f"publish to $JS.API.DIRECT.GET.KV_{BUCKET}.$KV.{BUCKET}.{SEED_KEY}, "
        "subscribe to customer.balance q; "
        "use the credentials of user `service` as `python -m control_plane create` makes them now"
    )
    assert any(line.startswith(f"missing  key {SEED_KEY} of bucket {BUCKET} cannot be read") for line in lines)
    assert not any("Traceback" in line for line in lines)


async def test_a_check_without_a_server(waiting: Waiting) -> None:
    code, lines = await waiting.check_without_a_server
    assert code == 1
    missing = [line for line in lines if line.startswith("missing")]
    assert len(missing) == 1
    assert missing[0].startswith(f"missing  no NATS server at {NOWHERE}")
    assert lines[-2:] == [
        f"ok       table {waiting.world.table}, no row 1",
        "note     adjustments: ADJUSTMENTS_TABLE is not set, so customer.adjust and customer.statement are not served",
    ], "what can be looked at is looked at"


async def test_a_task_with_credentials_without_the_permissions(waiting: Waiting) -> None:
    code, output = await waiting.task_of_another_user
    assert code == 1
    assert "stream customer-balances cannot be read" in complaint(output)
    assert any("permissions violation" in str(line.get("error", "")).lower() for line in log_lines(output))


async def test_a_password_is_never_shown(waiting: Waiting) -> None:
    """By a task or by `--check`."""
    checks = [(code, "\n".join(lines)) for code, lines in await asyncio.gather(*waiting.checks_with_a_password)]
    for code, output in [*checks, *await asyncio.gather(*waiting.tasks_with_a_password)]:
        assert code == 1
        assert "no NATS server at nats://127.0.0.1:9" in output
        assert PASSWORD not in output
        assert "Traceback" not in output


async def test_an_archive_says_in_one_line_what_is_missing(waiting: Waiting) -> None:
    for ending, message in (
        (waiting.archive_without_its_consumer, "stream customer-balances or of consumer other"),
        (waiting.archive_without_its_stream, "stream other or of consumer archive"),
    ):
        code, log = await ending
        assert code == 1
        assert "no permission to publish to $JS.API." in complaint(log)
        assert "; use the credentials of user `archive` as " in complaint(log)
        assert complaint(log).endswith(f", or correct the name of {message}")
        assert not [line for line in log_lines(log) if line["level"] == "warning"], "it is said once"


async def test_a_check_says_which_consumer_is_missing(waiting: Waiting) -> None:
    code, output = await waiting.check_of_a_sidecar_without_its_consumer
    assert code == 1
    assert "nobody" in output


async def test_a_stream_with_too_many_open_batches_is_waited_for(waiting: Waiting) -> None:
    found = await waiting.publication_behind_open_batches
    assert found == Published("batch publish too many inflight", unpublished=0, published=250, stored=1250)
