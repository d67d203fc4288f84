"""Bind the gRPC server: in clear text on loopback or a Unix socket, anywhere else only with TLS."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from service.grpc import certificates
from service.grpc.address import Address, socket_path
from service.runtime.errors import ServiceError

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # so that a second sidecar on the port fails instead of sharing it
    ("grpc.keepalive_time_ms", 30_000),
    # A Go client may send a PING every 10 s, and the network may deliver two of them closer together.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""gRPC silently ignores unknown names, so each option has a test of its effect.

https://github.com/grpc/grpc/blob/master/include/grpc/impl/channel_arg_names.h
"""


def claim(address: Address) -> None:
    """Lock a Unix socket's path, which gRPC would silently take over from another program.

    Raise `ServiceError` if another program serves it, and `OSError` if the path cannot be used.

    The kernel holds the lock until the process ends, in whatever way: a socket left by a killed sidecar blocks no one.
    It is not released earlier, because gRPC deletes the socket late.
    """
    listen, variable = address.listen, f"{address.variables}_LISTEN"
    if not listen.startswith("unix:"):
        return
    path = socket_path(listen)
    if os.path.lexists(path) and not Path(path).is_socket():
        raise ServiceError(f"{variable} {listen} exists and is not a socket", "set another path")
    lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    if not _locked(lock) or _served(path):
        os.close(lock)
        raise ServiceError(f"{variable} {listen} is served by another program", "stop that, or set another path")


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in {errno.ENOENT, errno.ECONNREFUSED}


def lost(listen: str) -> str:
    """Return the reason the socket is gone, or ''."""
    if listen.startswith("unix:") and not Path(socket_path(listen)).is_socket():
        return "its Unix socket was removed: restart it"
    return ""


@contextmanager
def _socket_mode(address: Address) -> Iterator[None]:
    """Set the mode by umask: gRPC binds and listens in one step, so a later chmod would miss early connections.

    https://man7.org/linux/man-pages/man7/unix.7.html (Pathname socket ownership and permissions)
    """
    before = os.umask(0o777 & ~int(address.socket_mode, 8))
    try:
        yield
    finally:
        os.umask(before)


async def bind(server: grpc.aio.Server, address: Address) -> int:
    """Bind the server; return the port. Raise `ServiceError` with the reason if it cannot listen there."""
    listen, variable = address.listen, f"{address.variables}_LISTEN"
    try:
        claim(address)
        if address.mutual and not address.is_local and not address.client_ca:
            raise ServiceError(
                f"{variable} {listen} is reachable from other machines, and {address.variables}_CLIENT_CA is not set",
                f"listen on 127.0.0.1 or unix:PATH, or give it with {address.variables}_CERTIFICATE and "
                f"{address.variables}_KEY",
            )
        if address.certificate:
            credentials = await asyncio.to_thread(certificates.load, address)
            with _socket_mode(address):
                return server.add_secure_port(listen, credentials)
        if address.client_ca or address.key:
            raise ServiceError(
                f"{address.variables}_CERTIFICATE is not set", "give certificate and key together, or neither"
            )
        if not address.is_local:
            raise ServiceError(
                f"{variable} {listen} is reachable from other machines",
                "listen on 127.0.0.1 or unix:PATH, or give "
                f"{address.variables}_CERTIFICATE and {address.variables}_KEY",
            )
        with _socket_mode(address):
            return server.add_insecure_port(listen)
    except OSError as error:
        raise ServiceError(f"{variable} {listen} cannot be used ({error.strerror})", "set another path") from None
    except (RuntimeError, ValueError):
        raise ServiceError(
            f"{variable} {listen} cannot be used (taken by another program, or no such address)", "set another"
        ) from None
