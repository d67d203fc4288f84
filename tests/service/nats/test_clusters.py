"""A client finds its way through a cluster, whichever way it connects: nodes are killed and added under it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import pytest
import structlog

from control_plane.auth import claims
from control_plane.desired import EVERYTHING
from control_plane.self_hosted import provider as self_hosted
from service.nats.connection import Connection
from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError
from tests.support.nats.cluster import WAYS, plain_cluster
from tests.support.world import World, eventually


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[Connection, list[ServiceError]]]:
    ends: list[ServiceError] = []
    connection = Connection(NatsSettings(nats_url=url), name="test", inbox_prefix="_INBOX_t", on_lost=ends.append)
    await connection.open()
    try:
        yield connection, ends
    finally:
        await connection.close()


async def answers(connection: Connection) -> bool:
    """Whether a request comes back over the connection as it is now."""
    nc = connection.nc
    try:
        return nc.is_connected and (await nc.request("echo", b"x", timeout=1)).data == b"x"
    except Exception:
        return False


def port_of(connection: Connection) -> int | None:
    url = connection.nc.connected_url
    return url.port if url else None


def ports(connection: Connection) -> set[int | None]:
    return {server.uri.port for server in connection.nc._servers.all()}


def said(connection: Connection) -> set[int | None]:
    """The ports of what the servers said."""
    return {server.uri.port for server in connection.nc._servers.all() if server.discovered}


@pytest.mark.parametrize("name", WAYS)
async def test_the_node_is_killed_twice_and_one_is_added_in_between(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with plain_cluster(tmp_path, WAYS[name]) as cluster:
        first, url = await cluster.add()
        async with connected(url) as (connection, ends):
            nc = connection.nc

            async def echo(msg: object) -> None:
                await msg.respond(msg.data)  # type: ignore[attr-defined]

            await nc.subscribe("echo", cb=echo)
            others = {node for node, _ in (await cluster.add(), await cluster.add())}
            await eventually(lambda: others <= ports(connection), what="the other nodes")
            await cluster.kill(first)
            await eventually(lambda: answers(connection), within_s=30, what="the way to another node")
            new, _ = await cluster.add()
            await eventually(lambda: new in ports(connection), what="the new node")
            await eventually(lambda: first not in said(connection), what="the end of the node that is gone")
            second = port_of(connection)
            assert second not in {first, None}
            await cluster.kill(second or 0)
            await eventually(lambda: answers(connection), within_s=30, what="the way to a third node")
            assert port_of(connection) not in {first, second}
            assert ends == []


async def test_addresses_that_are_gone_are_forgotten_and_cost_a_shared_time_out(tmp_path: Path) -> None:
    """Servers that accept and say nothing are tried before the one that answers."""
    async with plain_cluster(tmp_path, WAYS["password"]) as cluster:
        first, url = await cluster.add()
        second, _ = await cluster.add()
        async with connected(url) as (connection, ends):
            servers = connection.nc._servers
            by = servers.all()[0]
            silent = [await silent_server() for _ in range(3)]
            for gone in servers.all():
                if gone.discovered:
                    gone.reconnects = 1  # the silent ones come first
            addresses = [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in silent]
            servers.take({"connect_urls": [*addresses, f"127.0.0.1:{second}"]}, by)
            assert len(servers.all()) == 5
            await cluster.kill(first)
            await eventually(lambda: connection.nc.is_connected and port_of(connection) == second, within_s=30)
            await eventually(lambda: len(servers.all()) == 2, what="the list that the server says")
            assert ends == []
            for server in silent:
                server.close()


async def silent_server() -> asyncio.Server:
    """A server that accepts and says nothing."""

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            writer.close()

    return await asyncio.start_server(silent, "127.0.0.1", 0)


INFO = b'{"server_id":"x","version":"2.14.0","proto":1,"headers":true,"max_payload":1048576%b}'


@asynccontextmanager
async def odd_server(info: Callable[[], bytes]) -> AsyncIterator[str]:
    """A server that says INFO as a test has it, and answers PING."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + INFO % info() + b"\r\n")
        try:
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize("addresses", [b'["::5:4222"]', b'["h:99999"]', b"[null]", b'{"a":1}', b'"h:1"', b"7"])
async def test_an_odd_address_does_not_end_the_client(addresses: bytes) -> None:
    async with odd_server(lambda: b',"connect_urls":' + addresses) as url, connected(url) as (connection, ends):
        assert connection.nc.is_connected
        await connection.nc.force_reconnect()
        await eventually(lambda: connection.nc.stats["reconnects"] == 1 and connection.nc.is_connected)
        assert ends == []


async def test_an_info_of_a_large_cluster_is_taken() -> None:
    addresses = b",".join(b'"node-%d.example.com:4222"' % number for number in range(3000))
    async with odd_server(lambda: b',"connect_urls":[%b]' % addresses) as url, connected(url) as (connection, _):
        assert len(connection.nc._servers.all()) == 3001


async def test_an_odd_address_is_logged_once() -> None:
    with structlog.testing.capture_logs() as logs:
        async with odd_server(lambda: b',"connect_urls":["::5:4222"]') as url, connected(url) as (connection, _):
            await connection.nc.force_reconnect()
            await eventually(lambda: connection.nc.stats["reconnects"] == 1)
    assert [line["address"] for line in logs if "address" in line] == ["::5:4222"]


async def test_whatever_a_server_says_while_it_reconnects_another_try_is_made() -> None:
    """nats-py closes the client for good when anything but a network error is raised then."""
    odd = iter([b',"max_payload":"x"', b',"connect_urls":[[]]', b"}", b",", b""])
    async with odd_server(lambda: next(odd, b"")) as url:
        ends: list[ServiceError] = []
        connection = Connection(NatsSettings(nats_url=url), name="test", inbox_prefix="_INBOX_t", on_lost=ends.append)
        await connection.open()
        for count in (1, 2):
            await connection.nc.force_reconnect()
            await eventually(lambda count=count: connection.nc.stats["reconnects"] == count)
        assert ends == []
        await connection.close()


async def test_the_payload_limit_in_force_is_the_last_one_said(world: World) -> None:
    """An account's is below the server's, and said once the user is known."""
    creds = world.creds("client")
    settings = settings_of(world, creds)
    await push_payload_limit(world, 1000)
    ends: list[ServiceError] = []
    connection = Connection(settings, name="test", inbox_prefix="_INBOX", on_lost=ends.append)
    await connection.open()
    await eventually(lambda: connection.nc.max_payload == 1000, what="the account's limit")
    with pytest.raises(nats.errors.MaxPayloadError):
        connection.nc.post("customer.balance", b"x" * 1001)
    connection.nc._max_payload = 10_000  # as one that was not told
    connection.nc.post("customer.balance", b"x" * 1001)
    await eventually(lambda: connection.nc.stats["reconnects"] == 1 and connection.nc.is_connected)
    await eventually(lambda: connection.nc.max_payload == 1000, what="the limit again")
    assert ends == [], "an error that is not about credentials ends nothing"
    await connection.close()


def settings_of(world: World, creds: str) -> NatsSettings:
    encoded: Any = base64.b64encode(creds.encode()).decode()
    return NatsSettings(nats_url=world.nats_url, nats_credentials=encoded)


async def push_payload_limit(world: World, limit: int) -> None:
    operator = world.servers.operator
    said = claims.decode(claims.account_jwt("test", world.account.public, operator, limits=EVERYTHING.limits))
    said["nats"]["limits"]["payload"] = limit
    token = claims.sign("test", world.account.public, operator, said["nats"])
    async with self_hosted.connected(world.nats_url.split(","), world.servers.system_creds) as system:
        await self_hosted.push_account(system, token)
