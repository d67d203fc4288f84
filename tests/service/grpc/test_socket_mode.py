"""Who may connect to the sidecar's Unix socket, from the moment on at which it is there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from service.grpc.listen import OPTIONS, bind
from service.queue.settings import QueueSettings
from service.runtime.errors import ServiceError
from service.runtime.settings import load

CONNECT = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except PermissionError:
    sys.exit(13)
"""


@pytest.fixture
def path() -> Iterator[Path]:
    """In a folder that everybody may enter; pytest's own are one user's."""
    folder = Path(tempfile.mkdtemp(prefix="socket-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder / "q.sock"
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def bound(path: Path, **given: str) -> AsyncIterator[None]:
    """GRPC's own listening: a client can connect before the server is started."""
    server = grpc.aio.server(options=OPTIONS)
    await bind(server, QueueSettings(queue="jetstream:s", queue_listen=f"unix:{path}", **given).address)  # type: ignore[arg-type]
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


def connects(path: Path) -> bool:
    """Whether another user does."""
    code = subprocess.run([sys.executable, "-c", CONNECT, str(path)], check=False).returncode
    assert code in {0, 13}
    return code == 0


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize(
    ("given", "mode"), [({}, 0o600), ({"queue_socket_mode": "0666"}, 0o666), ({"queue_socket_mode": "660"}, 0o660)]
)
async def test_the_socket_has_its_mode_whatever_the_umask(
    path: Path, umask: int, given: dict[str, str], mode: int
) -> None:
    before = os.umask(umask)
    try:
        async with bound(path, **given):
            assert stat.S_IMODE(path.stat().st_mode) == mode
            (path.parent / "other").touch()
            assert stat.S_IMODE((path.parent / "other").stat().st_mode) == 0o666 & ~umask, "files of others have theirs"
    finally:
        os.umask(before)


async def test_with_tls_too(path: Path, tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(chain)
    leaf.private_key_pem.write_to_path(key)
    async with bound(path, queue_certificate=str(chain), queue_key=str(key), queue_socket_mode="0660"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a program as another user")
async def test_another_user_connects_where_the_mode_lets_him_and_nowhere_else(path: Path) -> None:
    async with bound(path):
        assert not connects(path)
    async with bound(path.with_name("shared.sock"), queue_socket_mode="0666"):
        assert connects(path.with_name("shared.sock"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a program as another user")
async def test_it_is_in_force_when_the_socket_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at by the first call after gRPC has bound it, when a client can connect."""
    server = grpc.aio.server(options=OPTIONS)
    seen: list[tuple[int, bool]] = []
    add = server.add_insecure_port

    def look(listen: str) -> int:
        port = add(listen)
        seen.append((stat.S_IMODE(path.stat().st_mode), connects(path)))
        return port

    monkeypatch.setattr(server, "add_insecure_port", look)
    try:
        await bind(server, QueueSettings(queue="jetstream:s", queue_listen=f"unix:{path}").address)
    finally:
        await server.stop(None)
    assert seen == [(0o600, False)]


@pytest.mark.parametrize("mode", ["0999", "rw", "0o600", "01666"])
def test_an_invalid_mode_is_reported(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("QUEUE", "jetstream:s")
    monkeypatch.setenv("QUEUE_SOCKET_MODE", mode)
    with pytest.raises(ServiceError, match="QUEUE_SOCKET_MODE is not valid"):
        load(QueueSettings)
