"""The certificate of the local system's MQTT over TLS, as a TLS client judges it."""

from __future__ import annotations

import asyncio
import ssl
import stat
from pathlib import Path

import pytest

from local.process import LocalError
from local.servers import certificate


async def handshake(server: Path, authority: Path, name: str) -> None:
    """Connect to a server with this certificate, as a client that demands `name`. Raises `ssl.SSLError`."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(server)
    trusting = ssl.create_default_context(cafile=str(authority))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=serving)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
        writer.close()


@pytest.mark.parametrize("host", ["broker.example", "192.0.2.7", "2001:db8::7"])
async def test_a_device_that_trusts_the_authority_connects_to_the_host_and_to_loopback(
    tmp_path: Path, host: str
) -> None:
    server = certificate.issue(tmp_path, host)
    for name in (host, "localhost", "127.0.0.1"):
        await handshake(server, tmp_path / certificate.AUTHORITY, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(server, tmp_path / certificate.AUTHORITY, "other.example")


async def test_the_authority_stays_and_a_device_trusts_each_certificate(tmp_path: Path) -> None:
    certificate.issue(tmp_path, "one.example")
    authority = tmp_path / certificate.AUTHORITY
    before = authority.read_bytes()
    await handshake(certificate.issue(tmp_path, "other.example"), authority, "other.example")
    assert authority.read_bytes() == before


def test_the_keys_are_private(tmp_path: Path) -> None:
    certificate.issue(tmp_path, "one.example")
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("damaged", ["mqtt-ca.pem", "mqtt-ca.key"])
def test_a_damaged_authority_is_named(tmp_path: Path, damaged: str) -> None:
    certificate.issue(tmp_path, "one.example")
    (tmp_path / damaged).write_text("no certificate")
    with pytest.raises(LocalError, match="is damaged; delete both"):
        certificate.issue(tmp_path, "one.example")
