"""Where the sidecar listens, and what it says when it cannot."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from service.queue.endpoint import OPTIONS, bind
from service.queue.settings import QueueSettings
from service.runtime.errors import ServiceError


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
        await bind(server, given)
    except ServiceError as error:
        return str(error)
    finally:
        await server.stop(None)
    return ""


async def test_a_port_that_is_taken_is_told(taken: int) -> None:
    assert f"QUEUE_LISTEN 127.0.0.1:{taken} cannot be used" in await tried(settings(queue_listen=f"127.0.0.1:{taken}"))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "example.org:50051"])
async def test_it_is_not_on_every_interface_without_certificates(listen: str) -> None:
    assert "reachable from other machines" in await tried(settings(queue_listen=listen))


async def test_a_unix_socket_that_another_program_serves_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "q.sock"))
        other.listen()
        for listen in (f"unix:{tmp_path}/q.sock", f"unix://{tmp_path}/q.sock"):
            assert "is served by another program" in await tried(settings(queue_listen=listen))


@pytest.mark.parametrize("name", ["nowhere/q.sock", "q" * 120])
async def test_a_unix_socket_that_cannot_be_made_is_told(tmp_path: Path, name: str) -> None:
    assert "cannot be used" in await tried(settings(queue_listen=f"unix:{tmp_path}/{name}"))


async def test_a_certificate_that_cannot_be_read_is_told() -> None:
    assert "QUEUE_CERTIFICATE" in await tried(settings(queue_certificate="/nowhere.pem", queue_key="/nowhere.key"))
    assert "QUEUE_CERTIFICATE is not set" in await tried(settings(queue_client_ca="/nowhere.pem"))


def test_another_role_does_not_import_grpc() -> None:
    code = (
        "import sys, service.__main__, service.customer.role, service.archive.role;"
        " sys.exit('grpc' in sys.modules or 'boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
