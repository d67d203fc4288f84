"""Where the sidecar listens, and what it says when it cannot."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import nats.errors
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from service.contracts import queue as contract
from service.grpc.listen import OPTIONS, bind
from service.nats.jetstream import explain
from service.queue.settings import QueueSettings
from service.runtime.errors import ServiceError
from service.runtime.settings import load


def settings(**given: str) -> QueueSettings:
    return QueueSettings(queue="jetstream:s", **given)  # type: ignore[arg-type]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


async def tried(given: QueueSettings) -> str:
    server = grpc.aio.server(options=OPTIONS)
    try:
        await bind(server, given.address)
    except ServiceError as error:
        return str(error)
    finally:
        await server.stop(None)
    return ""


async def test_a_port_that_is_taken_is_reported(taken: int) -> None:
    assert f"QUEUE_LISTEN 127.0.0.1:{taken} cannot be used" in await tried(settings(queue_listen=f"127.0.0.1:{taken}"))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "example.org:50051"])
async def test_it_is_not_on_every_interface_without_certificates(listen: str) -> None:
    assert "reachable from other machines" in await tried(settings(queue_listen=listen))


async def test_a_unix_socket_that_another_program_serves_is_reported(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "q.sock"))
        other.listen()
        for listen in (f"unix:{tmp_path}/q.sock", f"unix://{tmp_path}/q.sock"):
            assert "is served by another program" in await tried(settings(queue_listen=listen))


async def test_a_unix_socket_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    told = await tried(settings(queue_listen=f"unix:{tmp_path}/nowhere/q.sock"))
    assert "cannot be used (No such file or directory)" in told
    (tmp_path / "plain").write_text("kept")
    for name in (".", "plain"):
        assert "exists and is not a socket" in await tried(settings(queue_listen=f"unix:{tmp_path}/{name}"))
    assert (tmp_path / "plain").read_text() == "kept"


@pytest.mark.parametrize(
    ("listen", "rule"),
    [
        ("nope", "must be HOST:PORT"),
        (":50051", "must be HOST:PORT"),
        ("::1:50051", "must be HOST:PORT, [IPv6]:PORT"),
        ("127.0.0.1:99999", "must have a port of 0 to 65535"),
        ("127.0.0.1:", "must have a port of 0 to 65535"),
        ("unix:", "must name a file"),
        ("unix://", "must name a file"),
        ("unix:/tmp/", "must name a file"),
        (f"unix:/{'q' * 120}", "must have a path of at most 107 bytes"),
    ],
)
def test_an_invalid_address_is_reported(monkeypatch: pytest.MonkeyPatch, listen: str, rule: str) -> None:
    monkeypatch.setenv("QUEUE", "jetstream:s")
    monkeypatch.setenv("QUEUE_LISTEN", listen)
    with pytest.raises(ServiceError, match=re.escape(f"QUEUE_LISTEN is not valid: {rule}")):
        load(QueueSettings)


@pytest.mark.parametrize("listen", ["[::1]:0", "localhost:0", "unix:q.sock", "unix:///run/q.sock"])
def test_an_address_of_this_machine_is_local(listen: str) -> None:
    assert settings(queue_listen=listen).address.is_local


async def test_a_certificate_that_cannot_be_read_is_reported() -> None:
    assert "QUEUE_CERTIFICATE" in await tried(settings(queue_certificate="/nowhere.pem", queue_key="/nowhere.key"))
    assert "QUEUE_CERTIFICATE is not set" in await tried(settings(queue_client_ca="/nowhere.pem"))


async def test_an_invalid_certificate_key_or_ca_is_reported_by_its_variable(tmp_path: Path) -> None:
    def file(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    leaf, other = (trustme.CA().issue_cert("localhost") for _ in range(2))
    chain = file("chain.pem", leaf.cert_chain_pems[0].bytes())
    key = file("key.pem", leaf.private_key_pem.bytes())
    private = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    encrypted = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    junk, cut = file("junk.pem", b"junk"), file("cut.pem", leaf.cert_chain_pems[0].bytes()[:300])
    for given, said in (
        ({"queue_certificate": junk}, "QUEUE_CERTIFICATE"),
        ({"queue_certificate": cut}, "QUEUE_CERTIFICATE"),
        ({"queue_certificate": file("empty.pem", b"")}, "QUEUE_CERTIFICATE"),
        ({"queue_key": ""}, "QUEUE_KEY is not set"),
        ({"queue_key": junk}, f"QUEUE_KEY {junk!r} is not a private key (PEM)"),
        ({"queue_key": file("other.pem", other.private_key_pem.bytes())}, "is not the key of QUEUE_CERTIFICATE"),
        ({"queue_key": file("encrypted.pem", encrypted)}, "is encrypted; give it without a password"),
        ({"queue_client_ca": junk}, "QUEUE_CLIENT_CA"),
        ({"queue_client_ca": file("empty.pem", b"")}, "QUEUE_CLIENT_CA"),
    ):
        told = await tried(settings(**{"queue_certificate": chain, "queue_key": key, **given}))
        assert said in told, given
        assert "cannot be used" not in told
    assert await tried(settings(queue_certificate=chain, queue_key=key, queue_listen="127.0.0.1:0")) == ""


def test_another_role_does_not_import_grpc() -> None:
    code = (
        "import sys, service.__main__, service.customer.role, service.archive.role;"
        " sys.exit('grpc' in sys.modules or 'boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_stream_that_the_user_may_not_see_is_reported_with_the_roles_own_user() -> None:
    told = str(explain("stream nope", nats.errors.TimeoutError(), contract.USER))
    assert "use the credentials of user `queue`" in told
