"""The service is given its servers by the environment alone: any nats-server will do, with or without credentials."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from nats.aio.client import Client

from control_plane.desired import ACCOUNT
from local.process import accepts, claim_port, running
from local.servers.nats_server import binary
from local.system import ready, service_env, service_task
from tests.support.nats.declared import ensure
from tests.support.world import World, complaint


@asynccontextmanager
async def plain_server(folder: Path, extra: str = "") -> AsyncIterator[int]:
    """A nats-server without accounts or users."""
    port = claim_port(0, "")
    config = folder / "plain.conf"
    config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/js" }}\n{extra}')
    async with running("nats-server", [binary(), "-c", str(config)], folder / "plain.log") as child:
        await child.until(lambda: accepts(port))
        yield port


async def serves(world: World, url: str, client: Client, **env: str) -> None:
    await ensure(client.jetstream(), ACCOUNT, replicas=1)
    given = {**service_env(url, None, world.table, world.servers.dynamodb_env), "SEED_ROWS": "20", **env}
    async with service_task("service", given, claim_port(0, ""), world.folder / "service.log") as task:
        await ready(task)
        reply = await client.request("customer.balance", b'{"client_id":"7"}', timeout=2)
        assert reply.data == b'{"balance":%d}' % world.rows()["7"]
        assert await task.child.stop() == 0
    assert (await client.jetstream().stream_info(ACCOUNT.streams[0].name)).state.last_seq == 1


async def test_a_server_without_credentials(world: World, tmp_path: Path) -> None:
    async with plain_server(tmp_path) as port:
        client = Client()
        await client.connect(f"nats://127.0.0.1:{port}")
        try:
            await serves(world, f"nats://127.0.0.1:{port}", client)
        finally:
            await client.close()


async def test_tls_by_the_url(world: World, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    tls = f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem" }}'
    async with plain_server(tmp_path, tls) as port:
        url = f"tls://localhost:{port}"
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        client = Client()
        await client.connect(url, tls=context)
        try:
            await serves(world, url, client, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
        finally:
            await client.close()
        given = service_env(url, None, world.table, world.servers.dynamodb_env)
        async with service_task("distrust", given, claim_port(0, ""), tmp_path / "distrust.log") as task:
            assert await task.child.wait() == 1
            assert complaint((tmp_path / "distrust.log").read_text()) == (
                f"error: NATS at {url} has a certificate that does not verify "
                "(unable to get local issuer certificate); "
                "use a name of the certificate in NATS_URL, and its authority in SSL_CERT_FILE"
            )


@pytest.mark.parametrize("urls", ["nats://127.0.0.1:9,{url}", "{url}, nats://127.0.0.1:9"])
async def test_one_server_of_several_is_enough(world: World, urls: str) -> None:
    async with world.task(NATS_URL=urls.format(url=world.nats_url)), world.client() as client:
        reply = await asyncio.wait_for(client.request("customer.balance", b'{"client_id":"7"}', timeout=2), 3)
        assert reply.data.startswith(b'{"balance":')
