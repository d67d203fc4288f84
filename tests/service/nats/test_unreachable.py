"""Why no server lets a client in is said with its real cause, on real servers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import trustme

from control_plane.auth import claims
from control_plane.desired import EVERYTHING
from control_plane.self_hosted import provider as self_hosted
from local.process import claim_port
from service.customer.settings import CustomerSettings
from service.nats.connection import Connection, Timing
from service.nats.jetstream import check_stream, open_bucket
from service.nats.settings import NatsSettings
from service.nats.unreachable import unreachable
from service.runtime.errors import ServiceError
from service.runtime.settings import load
from tests.support.nats.plain import api, client_of, plain_server
from tests.support.world import World

TLS = 'tls {{ cert_file: "{0}/server.pem", key_file: "{0}/server.pem", ca_file: "{0}/ca.pem", {1} }}'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Certificates of a server and of a client, and a client's of somebody else."""
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    other.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return tmp_path


async def tried(url: str, *, within_s: float = 3.0, **settings: Any) -> str:
    connection = Connection(
        NatsSettings(nats_url=url, **settings),
        name="t",
        inbox_prefix="_INBOX_t",
        on_lost=lambda _: None,
        timing=Timing(start_timeout_s=within_s),
    )
    try:
        await connection.open()
    except ServiceError as error:
        return str(error)
    finally:
        await connection.close()
    return ""


async def test_a_server_that_begins_with_tls(folder: Path) -> None:
    async with plain_server(folder, TLS.format(folder, "handshake_first: true")) as port:
        url = f"tls://localhost:{port}"
        told = await tried(url)
        assert told.startswith(f"NATS at {url} starts with TLS")
        assert told.endswith("set NATS_TLS_HANDSHAKE_FIRST=true")
        assert await tried(url, nats_tls_handshake_first=True) == ""


async def test_a_server_that_does_not_begin_with_tls(folder: Path) -> None:
    async with plain_server(folder) as port:
        told = await tried(f"nats://localhost:{port}", nats_tls_handshake_first=True)
        assert "unset NATS_TLS_HANDSHAKE_FIRST" in told


@pytest.mark.parametrize("first", [False, True])
async def test_a_server_that_verifies(folder: Path, *, first: bool) -> None:
    config = "verify: true" + (", handshake_first: true" if first else "")
    async with plain_server(folder, TLS.format(folder, config)) as port:
        url, own = f"tls://localhost:{port}", str(folder / "client.pem")
        told = await tried(url, nats_tls_handshake_first=first)
        assert "requires a client certificate" in told
        assert "NATS_CERTIFICATE and NATS_KEY" in told
        assert await tried(url, nats_tls_handshake_first=first, nats_certificate=own, nats_key=own) == ""
        other = str(folder / "other.pem")
        told = await tried(url, nats_tls_handshake_first=first, nats_certificate=other, nats_key=other)
        assert "refuses NATS_CERTIFICATE" in told


@pytest.mark.parametrize("reason", ["[Errno 32] Broken pipe", "Connection reset by peer", "unexpected EOF"])
async def test_a_certificate_that_is_refused_before_the_alert_is_read(reason: str) -> None:
    given = NatsSettings(nats_url="tls://127.0.0.1:1", nats_certificate="client.pem", nats_key="client.pem")
    assert "refuses NATS_CERTIFICATE" in str(await unreachable(given, reason, asks_for_certificate=True))
    assert "no NATS server" in str(await unreachable(given, reason, asks_for_certificate=False))


async def test_a_certificate_that_cannot_be_used(folder: Path) -> None:
    own = str(folder / "client.pem")
    assert (await tried("tls://localhost:1", nats_certificate=own)).startswith("NATS_KEY is not set")
    assert (await tried("tls://localhost:1", nats_key=own)).startswith("NATS_CERTIFICATE is not set")
    for certificate, key in (
        (own, str(folder / "server.pem")),
        (own, str(folder / "none.pem")),
        (own, str(folder / "ca.pem")),
    ):
        told = await tried("tls://localhost:1", nats_certificate=certificate, nats_key=key)
        assert told.startswith(f"NATS_CERTIFICATE {certificate} with NATS_KEY {key} cannot be used (")
        assert "PRIVATE" not in told


async def test_an_account_that_has_all_its_connections(world: World, folder: Path) -> None:
    limits = dataclasses.replace(EVERYTHING.limits, connections=1)
    token = claims.account_jwt("test", world.account.public, world.servers.operator, limits=limits)
    async with self_hosted.connected(world.nats_url.split(","), world.servers.system_creds) as system:
        await self_hosted.push_account(system, token)
    async with world.client():
        creds = base64.b64encode(world.creds("service").encode()).decode()
        told = await tried(world.nats_url, nats_credentials=creds)
    assert "takes no more connections (maximum account active connections exceeded)" in told
    assert "NATS_URL" not in told


async def test_a_reason_arrives_before_the_reset() -> None:
    """The server closes as soon as it has read CONNECT: whatever is sent later resets the connection."""

    def refuse(connection: socket.socket) -> None:
        connection.sendall(b'INFO {"server_id":"x","proto":1,"max_payload":1048576}\r\n')
        connection.recv(65536)
        connection.sendall(b"-ERR 'maximum account active connections exceeded'\r\n")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                refuse(listening.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve, listening))
        told = await tried(f"nats://127.0.0.1:{listening.getsockname()[1]}", within_s=1.0)
        listening.shutdown(socket.SHUT_RDWR)
    await serving
    assert "takes no more connections (maximum account active connections exceeded)" in told


async def test_a_port_where_no_server_listens_is_reported(folder: Path) -> None:
    told = await tried(f"nats://localhost:{claim_port(0, '')}")
    assert told.startswith("no NATS server at ")


def test_an_invalid_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDB_TABLE", "t")
    monkeypatch.setenv("NATS_URL", "nats://localhost:99999")
    with pytest.raises(ServiceError, match=r"^NATS_URL is not valid: has an invalid port"):
        load(CustomerSettings)


async def test_a_leaf_below_a_hub_with_a_domain(folder: Path) -> None:
    leaf_port = claim_port(0, "")
    hub = f'jetstream {{ store_dir: "{folder}/hub", domain: hub }}\nleafnodes {{ listen: "127.0.0.1:{leaf_port}" }}'
    leaf = f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{leaf_port}" }}] }}'
    async with (
        plain_server(folder / "a", hub) as hub_port,
        plain_server(folder / "b", leaf) as port,
        client_of(hub_port) as admin,
        client_of(port) as client,
    ):
        await api(admin, "STREAM.CREATE.s", name="s", subjects=["s"])
        with pytest.raises(ServiceError, match="JetStream domain"):
            await check_stream(client.jetstream(), "s", ("s",))


async def test_a_plain_stream_in_place_of_a_bucket(folder: Path) -> None:
    async with plain_server(folder, jetstream=True) as port, client_of(port) as client:
        await api(client, "STREAM.CREATE.KV_config", name="KV_config", subjects=["$KV.config.>"])
        with pytest.raises(ServiceError, match="KV bucket config is a plain stream, not a bucket"):
            await open_bucket(client.jetstream(), "config", ("seed",))
