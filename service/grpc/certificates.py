"""Check certificate, key and client CA before gRPC gets them: gRPC reports all their faults by the same error."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from service.grpc.address import Address
from service.runtime.errors import ServiceError


def load(address: Address) -> grpc.ServerCredentials:
    """Load the server's credentials. Raises `ServiceError` that names the faulty variable."""
    if not address.key:
        raise ServiceError(f"{address.variables}_KEY is not set", "give certificate and key together, or neither")
    chain = _certificates(f"{address.variables}_CERTIFICATE", address.certificate)
    key = _read(f"{address.variables}_KEY", address.key)
    _look_at_key(address)
    ca = _certificates(f"{address.variables}_CLIENT_CA", address.client_ca) if address.client_ca else None
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=ca, require_client_auth=ca is not None)


def _certificates(variable: str, path: str) -> bytes:
    data = _read(variable, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=data.decode())
    except (ssl.SSLError, ValueError):
        raise ServiceError(f"{variable} {path!r} is not a certificate (PEM)", f"correct {variable}") from None
    return data


def _look_at_key(address: Address) -> None:
    variable, path, asked = f"{address.variables}_KEY", address.key, False

    def password() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(address.certificate, path, password)
    except ssl.SSLError as error:
        if asked:
            raise ServiceError(f"{variable} {path!r} is encrypted", "give it without a password") from None
        if error.reason == "KEY_VALUES_MISMATCH":
            whose = f"{address.variables}_CERTIFICATE {address.certificate!r}"
            problem = f"{variable} {path!r} is not the key of {whose}"
            raise ServiceError(problem, "give the two that belong together") from None
        raise ServiceError(f"{variable} {path!r} is not a private key (PEM)", f"correct {variable}") from None


def _read(variable: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ServiceError(f"{variable} {path!r} cannot be read ({error.strerror})", f"correct {variable}") from None
