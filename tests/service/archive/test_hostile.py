"""Surroundings that mean harm: messages of any bytes, and a stream, a table or credentials that change meanwhile."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ADMINISTRATOR, EVERYTHING
from local.servers import dynamodb
from service.contracts import archive as contract
from service.contracts.archive import STREAM
from service.nats.connection import roundtrip
from tests.support.archive import ArchiveWorld, ended
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal
from tests.support.world import World, complaint, eventually, get, metric

KEYS = (contract.PARTITION_KEY, contract.SORT_KEY)


async def publish_raw(world: World, *frames: bytes) -> None:
    """Frames as no client library sends them."""
    async with world.client(ADMINISTRATOR.name) as client:
        for frame in frames:
            client._pending.append(frame)
            client._pending_data_size += len(frame)
        await roundtrip(client)


def frame(subject: bytes, payload: bytes, headers: bytes = b"") -> bytes:
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(headers), len(headers) + len(payload), headers, payload)


def has(archive: ArchiveWorld, rows: int) -> Callable[[], bool]:
    return lambda: len(archive.sequences()) == rows


def shows(task: Any, name: str, value: float) -> Callable[[], Awaitable[bool]]:
    async def shown() -> bool:
        return await metric(task, name) == value

    return shown


async def test_messages_of_any_bytes_are_rows_or_dead_letters(archive: ArchiveWorld) -> None:
    """Each of them is one or the other, and those that follow are not held up."""
    block = b"NATS/1.0\r\n%b\r\n"
    long = b"x" * 60_000  # JetStream keeps no more than 64 KB of headers
    odd = [
        frame(b"customer.balance.1", b"\xff\xfe\x00"),
        frame(b"customer.balance.2", b"\x00" * 300_000),
        frame(b"customer.balance.3", b"{}", block % (b"Nats-Msg-Id: " + long + b"\r\n")),
        frame(b"customer.balance.4", b"{}", block % (b"X: %b\r\n" % long[:6_000] * 10)),
        frame(
            b"customer.balance.5", b"{}", block % b"NATS-MSG-ID:\xff\xfe\r\nStatus: 503\r\nno colon\r\n: nameless\r\n"
        ),
        frame(b"customer.balance.6", b"{}", b"NATS/1.0 503 No Responders\r\n\r\n"),
        frame(b"customer.balance.a.b.7", b"[" * 200_000),
        frame(b"customer.balance.$JS.ACK.8", b'{"balance":1e400}'),
        frame("customer.balance.é\u0085☃".encode(), b"{}"),
        frame(b"customer.balance.\xc3\x28", b"{}"),
        frame(b"customer.balance.9", b"\x01" * 399_000),
    ]
    await publish_raw(archive.world, *odd)
    await archive.publish(10)
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    assert "Traceback" not in log
    dead = (await archive.admin.stream_info(contract.DEAD_STREAM)).state.messages
    last = (await archive.admin.stream_info(STREAM)).state.last_seq
    assert last == len(odd) + 10
    assert len(archive.sequences()) + dead == last
    assert dead == 1, "a subject that is not UTF-8"
    rows = {row["client_id"]["S"]: row for row in archive.rows() if int(row["sequence"]["N"]) <= len(odd)}
    assert rows["1"]["body"] == {"B": b"\xff\xfe\x00"}
    assert rows["2"]["body"] == {"S": "\x00" * 300_000}
    assert rows["3"]["Nats-Msg-Id"] == {"S": long.decode()}
    assert rows["7"]["body"] == {"S": "[" * 200_000}
    assert rows["é\u0085☃"]["body"] == {"S": "{}"}


async def test_a_stream_that_is_purged_meanwhile(archive: ArchiveWorld, proxy: FaultyDynamoDB) -> None:
    """What a task was given is a row, all else is counted as discarded, and the task ends as if nothing were left."""
    archive.env = proxy.env
    count = 5_000
    await archive.publish(count)
    release = asyncio.Event()

    async def hold(_: str, call: Call) -> None:
        if "RequestItems" in call:
            await release.wait()

    proxy.fault = hold
    async with archive.task(IDLE_EXIT="2") as task:
        await eventually(shows(task, "archive_held", 2_500), what="a task that is full")
        await archive.admin.purge_stream(STREAM)
        await eventually(shows(task, "archive_discarded_total", count - 2_500), what="what was discarded")
        release.set()
        async with asyncio.timeout(20):
            assert await task.child.wait() == 0
    assert archive.sequences() == list(range(1, 2_501))


async def test_a_consumer_that_is_made_again_meanwhile(archive: ArchiveWorld) -> None:
    """It begins with the first message again, and its numbers begin at 1."""
    await archive.publish(100)
    config = (await archive.admin.consumer_info(STREAM, contract.CONSUMER)).config
    async with archive.task() as task:
        await eventually(archive.is_archived, what="an empty backlog")
        await archive.admin.delete_consumer(STREAM, contract.CONSUMER)
        await archive.admin.add_consumer(STREAM, config)
        await archive.publish(100, first=100)
        await eventually(archive.is_archived, what="an empty backlog")
        assert archive.sequences() == list(range(1, 201))
        await archive.limit(STREAM, 1_000)
        assert await metric(task, "archive_discarded_total") == 0


async def test_a_consumer_that_begins_to_give_messages_up_ends_the_task_and_loses_none(archive: ArchiveWorld) -> None:
    config = (await archive.admin.consumer_info(STREAM, contract.CONSUMER)).config
    async with archive.task(IDLE_EXIT="3") as task:
        await archive.admin.add_consumer(STREAM, dataclasses.replace(config, max_deliver=1))
        await archive.publish(50)
        async with asyncio.timeout(20):
            assert await task.child.wait() == 1
        assert "drops a message after 1 deliveries" in ended(task.child.log.read_text())
    await archive.admin.add_consumer(STREAM, dataclasses.replace(config, ack_wait=2))
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    assert archive.sequences() == list(range(1, 51))


async def test_credentials_of_nats_that_are_revoked_meanwhile(archive: ArchiveWorld, proxy: FaultyDynamoDB) -> None:
    """It ends with one line; what it held is another task's, once `ack_wait` is over."""
    archive.env = proxy.env
    await archive.shorten_ack_wait()
    await archive.publish(500)
    world, key = archive.world, Key.user()
    jwt = claims.user_jwt(EVERYTHING.user(contract.USER), key.public, world.account, account=world.account.public)
    creds = base64.b64encode(claims.creds_file(jwt, key).encode()).decode()
    release = asyncio.Event()

    async def hold(_: str, call: Call) -> None:
        if "RequestItems" in call:
            await release.wait()

    proxy.fault = hold
    async with archive.task(NATS_CREDENTIALS=creds) as task:
        await eventually(shows(task, "archive_held", 500), what="a task that holds all")
        await world.push(revoked={key.public: int(time.time()) + 1})
        async with asyncio.timeout(30):
            assert await task.child.wait() == 1
        assert "refuses the credentials" in complaint(task.child.log.read_text())
    release.set()
    proxy.fault = None
    async with archive.task():
        await eventually(archive.is_archived, within_s=20, what="an empty backlog")
    assert archive.sequences() == list(range(1, 501))


async def test_credentials_of_aws_that_are_revoked_meanwhile(archive: ArchiveWorld, proxy: FaultyDynamoDB) -> None:
    """No message is blamed, none is lost, and the task says so until they are given back."""
    archive.env = proxy.env

    def deny(_: str, call: Call) -> web.Response | None:
        return refusal("AccessDeniedException") if "RequestItems" in call else None

    proxy.fault = deny
    await archive.publish(100)
    async with archive.task() as task:
        await eventually(lambda: len(proxy.calls) > 8, what="refusals")
        assert await archive.backlog() == 100
        assert await metric(task, "archive_dead_letters_total") == 0
        proxy.fault = None
        await eventually(archive.is_archived, what="an empty backlog")
    assert archive.sequences() == list(range(1, 101))


async def test_a_table_with_other_keys_meanwhile_is_no_messages_fault(archive: ArchiveWorld) -> None:
    await archive.publish(30)
    async with archive.task() as task:
        await eventually(has(archive, 30), what="rows")
        engine = archive.engine()
        engine.delete_table(TableName=archive.table)
        await dynamodb.create_table(archive.table, archive.world.servers.dynamodb_env, ("another", "key"))
        await archive.publish(30, first=30)
        await eventually(shows(task, "archive_held", 30), what="held messages")

        async def tried() -> bool:
            return await metric(task, "archive_write_errors_total") > 5

        await eventually(tried, what="refusals")
        assert await metric(task, "archive_dead_letters_total") == 0
        engine.delete_table(TableName=archive.table)
        await dynamodb.create_table(archive.table, archive.world.servers.dynamodb_env, KEYS)
        await eventually(archive.is_archived, within_s=30, what="an empty backlog")
        assert (await get(f"{task.health_url}/readyz"))[0] == 200
    assert archive.sequences() == list(range(31, 61))


async def test_a_balance_of_any_size_holds_nobody_up(archive: ArchiveWorld) -> None:
    body = b'{"balance":1' + b"0" * 40 + b'e1000000,"more":1}'
    await archive.publish_all([("customer.balance.1", body, None), ("customer.balance.2", b'{"balance":2}', None)])
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    assert [row.get("balance") for row in sorted(archive.rows(), key=lambda row: row["client_id"]["S"])] == [
        None,
        {"N": "2"},
    ]


async def test_each_dead_letter_of_one_long_client_id_is_kept(archive: ArchiveWorld) -> None:
    """The server takes a message of the same id for a duplicate, and confirms it."""
    subject = f"customer.balance.{'x' * 2_049}"
    await archive.publish_all([(subject, b"%d" % number, None) for number in range(3)])
    code, log = await archive.run_to_end(IDLE_EXIT="0.5")
    assert code == 0, log
    assert (await archive.admin.stream_info(contract.DEAD_STREAM)).state.messages == 3


@pytest.mark.parametrize("kind", ["tiny headers", "control characters"])
async def test_memory_is_bounded_whatever_events_are_made_of(archive: ArchiveWorld, kind: str) -> None:
    await archive.limit(STREAM, 200 * 1024 * 1024)
    block = b"NATS/1.0\r\n" + b"a:\r\n" * 14_000 + b"\r\n"
    odd = (
        [frame(b"customer.balance.%d" % number, b"{}", block) for number in range(100)]
        if kind == "tiny headers"
        else [frame(b"customer.balance.%d" % number, b"\x01" * 390_000) for number in range(60)]
    )
    await publish_raw(archive.world, *odd)
    async with archive.task() as task:
        await eventually(has(archive, len(odd)), within_s=60)
        status = await asyncio.to_thread(Path(f"/proc/{task.child.pid}/status").read_text)
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    assert int(peak) / 1024 <= 120
