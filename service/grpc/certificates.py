"""Check certificate, key and client CA before gRPC gets them: gRPC reports the same error for any fault in them.

Each is given as a file's path or as PEM text: ECS passes a secret to a container as a variable, never as a file.
"""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from service.grpc.address import Address
from service.runtime.errors import ServiceError

_BEGIN: Final = "-----BEGIN "
"""Found in all PEM text (https://www.rfc-editor.org/rfc/rfc7468#section-2), and in no file's name."""


def load(address: Address) -> grpc.ServerCredentials:
    """Load the server's credentials. Raise `ServiceError` that names the faulty variable."""
    if not address.key:
        raise ServiceError(f"{address.variables}_KEY is not set", "give certificate and key together, or neither")
    chain = _certificates(f"{address.variables}_CERTIFICATE", address.certificate)
    key = _read(f"{address.variables}_KEY", address.key)
    _look_at_key(address)
    ca = _certificates(f"{address.variables}_CLIENT_CA", address.client_ca) if address.client_ca else None
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=ca, require_client_auth=ca is not None)


def _certificates(variable: str, given: str) -> bytes:
    data = _read(variable, given)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=data.decode())
    except (ssl.SSLError, ValueError):
        problem = f"{_shown(variable, given)} is not a certificate (PEM)"
        raise ServiceError(problem, f"correct {variable}") from None
    return data


def _look_at_key(address: Address) -> None:
    variable, asked = f"{address.variables}_KEY", False
    shown = _shown(variable, address.key)

    def password() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        with _path(address.certificate) as chain, _path(address.key) as key:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password)
    except ssl.SSLError as error:
        if asked:
            raise ServiceError(f"{shown} is encrypted", "give it without a password") from None
        if error.reason == "KEY_VALUES_MISMATCH":
            whose = _shown(f"{address.variables}_CERTIFICATE", address.certificate)
            raise ServiceError(f"{shown} is not the key of {whose}", "give the two that belong together") from None
        raise ServiceError(f"{shown} is not a private key (PEM)", f"correct {variable}") from None


def _read(variable: str, given: str) -> bytes:
    if _BEGIN in given:
        return given.encode()
    try:
        return Path(given).read_bytes()
    except OSError as error:
        raise ServiceError(f"{variable} {given!r} cannot be read ({error.strerror})", f"correct {variable}") from None


def _shown(variable: str, given: str) -> str:
    """Return the variable with its file; PEM text is not shown, as it may be a key."""
    return variable if _BEGIN in given else f"{variable} {given!r}"


@contextmanager
def _path(given: str) -> Iterator[str]:
    """Yield a path to the data. Text is kept in memory: a container's file system is read-only."""
    if _BEGIN not in given:
        yield given
        return
    with os.fdopen(os.memfd_create("pem"), "w+b") if sys.platform == "linux" else tempfile.TemporaryFile() as file:
        file.write(given.encode())
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"
