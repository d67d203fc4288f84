"""What fails around a task, each on the real servers: nothing is lost that need not be, and it says what is true."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import orjson
import pytest

from local.process import running
from local.servers import dynamodb
from service.contracts import customer as contract
from service.contracts.stream import STREAM
from tests.support.dynamodb.faulty import Call, FaultyDynamoDB, refusal, stall
from tests.support.own_servers import own_server
from tests.support.world import World, complaint, eventually, metric

REQUEST = b'{"client_id":"7"}'


# 5: an exception in a delivery


async def test_no_span_keeps_a_reply_back(world: World) -> None:
    tracing = {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    async with world.task(**tracing) as task, world.client() as client:
        asking = (
            client.request(contract.SUBJECT, orjson.dumps({"client_id": str(number)}), timeout=3)
            for number in range(1, 51)
        )
        replies = await asyncio.gather(*asking, return_exceptions=True)
        assert sum(not isinstance(reply, Exception) for reply in replies) == 50
        assert await metric(task, "balance_requests_in_flight") == 0
        assert await metric(task, "balance_requests_total") == 50


# 6: tls:// that is not


@asynccontextmanager
async def plaintext() -> AsyncIterator[tuple[int, bytearray]]:
    """A server that speaks no TLS, and what it was told."""
    told = bytearray()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info: dict[str, Any] = {"server_id": "x", "version": "2.15.1", "max_payload": 1 << 20, "nonce": "abcdefghijk"}
        writer.write(b"INFO %b\r\n" % orjson.dumps({**info, "headers": True, "auth_required": True}))
        while data := await reader.read(4096):
            told.extend(data)
            writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], told


@pytest.mark.parametrize("arguments", [[], ["--check"]])
async def test_tls_or_nothing(world: World, arguments: list[str]) -> None:
    async with plaintext() as (port, told):
        given = {**world.service_env(NATS_URL=f"tls://127.0.0.1:{port}"), "HEALTH_PORT": "0"}
        command = [sys.executable, "-m", "service", *arguments]
        log = world.folder / "tls.log"
        async with running("service", command, log, given) as child, asyncio.timeout(25):
            assert await child.wait() == 1
    said = log.read_text()
    assert "Traceback" not in said
    assert "TLS" in said
    assert b"CONNECT" not in told


async def test_tls_against_a_real_plaintext_server(world: World) -> None:
    code, output = await world.run_to_end(NATS_URL=world.nats_url.replace("nats://", "tls://"))
    assert code == 1
    assert "TLS" in complaint(output)


# 7: SIGTERM while NATS is away


async def test_a_draining_task_takes_nothing(world: World, tmp_path: Path) -> None:
    """It waits for the stream to take an event, and the server comes back meanwhile."""
    async with (
        own_server(world, tmp_path / "nats") as (own, server),
        own.task(SHUTDOWN_TIMEOUT="6") as task,
        own.client() as client,
    ):
        async with own.administrator() as admin:
            await admin.delete_stream(STREAM)
        assert (await client.request(contract.SUBJECT, REQUEST, timeout=3)).data.startswith(b'{"balance"')
        await server.stop()
        await eventually(lambda: "connection lost" in task.child.log.read_text())
        task.child.signal(signal.SIGTERM)
        await eventually(lambda: '"draining"' in task.child.log.read_text())
        await server.start()
        await eventually(lambda: "connection restored" in task.child.log.read_text())
        await eventually(lambda: client.is_connected)
        for _ in range(50):
            with pytest.raises(nats.errors.NoRespondersError):
                await client.request(contract.SUBJECT, REQUEST, timeout=1)
        async with asyncio.timeout(20):
            assert await task.child.wait() == 1
        assert "1 events unacknowledged" in complaint(task.child.log.read_text())


async def test_a_drain_without_nats_says_so_in_one_line(world: World, proxy: FaultyDynamoDB, tmp_path: Path) -> None:
    async with own_server(world, tmp_path / "nats") as (own, server), own.client() as client:
        env = {**proxy.env, "SHUTDOWN_TIMEOUT": "4"}
        async with own.task(**env) as task:
            await client.request(contract.SUBJECT, REQUEST, timeout=3)
            proxy.fault = stall(0.7)
            await client.publish(contract.SUBJECT, REQUEST, reply="_INBOX.gone")

            async def in_flight() -> bool:
                return await metric(task, "balance_requests_in_flight") == 1

            await eventually(in_flight)
            await server.stop()
            await eventually(lambda: "connection lost" in task.child.log.read_text())
            task.child.signal(signal.SIGTERM)
            async with asyncio.timeout(15):
                assert await task.child.wait() == 1
            assert "drained in part" in complaint(task.child.log.read_text())


# 12: a table with another key


@pytest.mark.parametrize(
    "keys", [[("client", "S", "HASH")], [("id", "N", "HASH")], [("id", "S", "HASH"), ("at", "N", "RANGE")]]
)
async def test_a_table_with_another_key_is_found_at_start(world: World, keys: list[tuple[str, str, str]]) -> None:
    name = f"{world.table}-keys"
    dynamodb.client(world.servers.dynamodb_env).create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, _, kind in keys],  # type: ignore[typeddict-item]
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": of} for key, of, _ in keys],  # type: ignore[typeddict-item]
    )
    code, output = await world.run_to_end(DDB_TABLE=name, SEED_ROWS="0")
    assert code == 1
    assert "key" in complaint(output)


async def test_a_database_that_is_slow_while_a_task_starts_is_asked_again(world: World, proxy: FaultyDynamoDB) -> None:
    async def slow_at_first(_action: str, _call: Call) -> None:
        if len(proxy.calls) <= 3:
            await asyncio.sleep(5)

    proxy.fault = slow_at_first
    async with world.task(**proxy.env), world.client() as client:
        assert (await client.request(contract.SUBJECT, REQUEST, timeout=3)).headers is None


async def test_a_refused_batch_is_not_asked_again_in_halves(world: World, proxy: FaultyDynamoDB) -> None:
    async with world.task(**proxy.env) as task, world.client() as client:
        proxy.fault = lambda action, call: refusal("ValidationException")
        before = len(proxy.calls)
        asking = (
            client.request(contract.SUBJECT, orjson.dumps({"client_id": str(number)}), timeout=5)
            for number in range(1, 101)
        )
        replies = await asyncio.gather(*asking)
        assert {(reply.headers or {}).get("Nats-Service-Error-Code") for reply in replies} == {"500"}
        assert len(proxy.calls) - before <= 20
        assert "Traceback" not in task.child.log.read_text()


# 13: AWS configuration


async def test_an_unknown_region_is_one_line(world: World) -> None:
    env = {"AWS_REGION": "foo", "AWS_ENDPOINT_URL_DYNAMODB": "", "AWS_ENDPOINT_URL": "", "AWS_CONFIG_FILE": os.devnull}
    code, output = await world.run_to_end(health_port=0, **env)
    assert code == 1
    assert complaint(output)
