"""The environment of a role that connects to NATS."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from service.nats import creds
from service.runtime.settings import Settings


def _servers(value: str) -> str:
    for server in value.split(","):
        url = urlsplit(server.strip())
        try:
            _ = url.port
        except ValueError:
            raise ValueError("has an invalid port; a port is a number up to 65535") from None
        if url.scheme not in {"nats", "tls", "ws", "wss"} or not url.hostname:
            raise ValueError("must be one or more of nats://HOST:PORT or tls://HOST:PORT, comma separated")
    return value


def _creds(value: Any) -> Any:
    """Decode base64 to `.creds` text that every client can read. No error quotes the value."""
    if value is None:
        return None
    try:
        decoded = base64.b64decode("".join(str(value).split()), validate=True)
    except ValueError:
        raise ValueError("must be the base64 of a .creds file (base64 < service.creds)") from None
    try:
        return creds.parse(decoded).text
    except ValueError as error:
        raise ValueError(f"the base64 of a file that {error}") from None


class NatsSettings(Settings):
    """Settings of a role that connects to NATS."""

    nats_url: Annotated[
        str, AfterValidator(_servers), Field(description="servers, comma separated; tls:// for TLS")
    ] = "tls://connect.ngs.global"
    nats_credentials: Annotated[
        SecretStr | None,
        BeforeValidator(_creds),
        Field(description="base64 of the .creds file; kept in memory; not set: none"),
    ] = None
    nats_certificate: Annotated[
        str | None, Field(description="path of the client's certificate, for servers that verify; PEM")
    ] = None
    nats_key: Annotated[str | None, Field(description="path of its key; PEM")] = None
    nats_tls_handshake_first: Annotated[
        bool, Field(description="true: TLS before the server's first word (handshake_first)")
    ] = False

    @property
    def nats_servers(self) -> list[str]:
        return [server.strip() for server in self.nats_url.split(",")]

    @property
    def nats_shown(self) -> str:
        return shown(self.nats_servers)


def shown(servers: Sequence[str]) -> str:
    """Return the servers without user and password, for logs and messages."""
    return ",".join(re.sub(r"//.*@", "//", server) for server in servers)
