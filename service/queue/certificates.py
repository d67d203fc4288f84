"""The server's certificate, key and CA of client certificates, looked at before gRPC is given them: it tells of each
that is wrong by the same error.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from service.queue.settings import QueueSettings
from service.runtime.errors import ServiceError


def load(settings: QueueSettings) -> grpc.ServerCredentials:
    """Raises `ServiceError` that names the variable."""
    if not settings.queue_key:
        raise ServiceError("QUEUE_KEY is not set", "give certificate and key together, or neither")
    chain = _certificates("QUEUE_CERTIFICATE", settings.queue_certificate)
    key = _read("QUEUE_KEY", settings.queue_key)
    _look_at_key(settings)
    ca = _certificates("QUEUE_CLIENT_CA", settings.queue_client_ca) if settings.queue_client_ca else None
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=ca, require_client_auth=ca is not None)


def _certificates(variable: str, path: str) -> bytes:
    data = _read(variable, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=data.decode())
    except (ssl.SSLError, ValueError):
        raise ServiceError(f"{variable} {path!r} is no certificate (PEM)", f"correct {variable}") from None
    return data


def _look_at_key(settings: QueueSettings) -> None:
    path, asked = settings.queue_key, False

    def password() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.queue_certificate, path, password)
    except ssl.SSLError as error:
        if asked:
            raise ServiceError(f"QUEUE_KEY {path!r} is encrypted", "give it without a password") from None
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"QUEUE_KEY {path!r} is not the key of QUEUE_CERTIFICATE {settings.queue_certificate!r}"
            raise ServiceError(problem, "give the two that belong together") from None
        raise ServiceError(f"QUEUE_KEY {path!r} is no private key (PEM)", "correct QUEUE_KEY") from None


def _read(variable: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ServiceError(f"{variable} {path!r} cannot be read ({error.strerror})", f"correct {variable}") from None
