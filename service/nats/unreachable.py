"""Explain to an operator why no server accepted the client: the real cause, and the remedy."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from service.nats import creds
from service.nats.connect import is_refusal, text
from service.nats.link.reconnect import NoTlsError
from service.nats.link.servers import PORTS
from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError

PROBE_S: Final = 1.0
_FULL: Final = ("maximum account active connections exceeded", "maximum connections exceeded")
"""https://github.com/nats-io/nats-server/blob/main/server/errors.go"""
_LOST: Final = ("broken pipe", "connection reset", "eof", "connection lost")
"""What a refused certificate looks like when the connection ends before the server's alert is read."""


def refused(settings: NatsSettings, error: BaseException) -> ServiceError | None:
    """Explain an error that ends an attempt to connect; return None for any other."""
    shown, said, given = settings.nats_shown, text(error), settings.nats_credentials
    if is_refusal(error):
        if given and (end := creds.parse(given.get_secret_value()).end) and end <= _now():
            said += f": NATS_CREDENTIALS expired at {end}"
        return ServiceError(
            f"NATS at {shown} refuses the credentials ({said})",
            "put current ones into NATS_CREDENTIALS (base64 of the .creds file)",
        )
    if isinstance(error, NoTlsError):
        return ServiceError(f"NATS: {said}, and NATS_URL asks for TLS", "use a server with TLS, or nats:// without it")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServiceError(
            f"NATS at {shown} has a certificate that does not verify ({error.verify_message})",
            "use a name of the certificate in NATS_URL, and its authority in SSL_CERT_FILE",
        )
    return None


async def unreachable(settings: NatsSettings, reason: str, *, asks_for_certificate: bool) -> ServiceError:
    """Explain `reason`, the last error before the timeout."""
    shown, said = settings.nats_shown, reason.lower()
    if any(full in said for full in _FULL):
        return ServiceError(
            f"NATS at {shown} takes no more connections ({reason})",
            "close connections of the account or server, or raise its limit",
        )
    alert = "certificate required" in said or "certificate_required" in said
    if not settings.nats_certificate and (alert or asks_for_certificate):
        return ServiceError(
            f"NATS at {shown} requires a client certificate (verify), and none is set",
            "set NATS_CERTIFICATE and NATS_KEY to the paths of one that it trusts, and of its key",
        )
    is_lost = any(word in said for word in _LOST) and (asks_for_certificate or settings.nats_tls_handshake_first)
    if settings.nats_certificate and ("alert" in said or is_lost):
        return ServiceError(
            f"NATS at {shown} refuses NATS_CERTIFICATE ({reason})", "use one that its authorities have signed"
        )
    if settings.nats_tls_handshake_first and "ssl" in said:
        return ServiceError(
            f"NATS at {shown} does not begin with TLS ({reason})",
            "unset NATS_TLS_HANDSHAKE_FIRST, unless the server has handshake_first",
        )
    if not settings.nats_tls_handshake_first and await _begins_with_tls(settings):
        return ServiceError(
            f"NATS at {shown} starts with TLS (handshake_first), and this client waits for INFO",
            "set NATS_TLS_HANDSHAKE_FIRST=true",
        )
    return ServiceError(f"no NATS server at {shown} ({reason})", "correct NATS_URL, or start the server")


async def _begins_with_tls(settings: NatsSettings) -> bool:
    """Return whether a server sends INFO after a TLS handshake. Send it nothing, and trust nothing it says."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for server in settings.nats_servers:
        url = urlsplit(server)
        if url.scheme in {"ws", "wss"}:
            continue
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(PROBE_S):
                port = url.port or PORTS[url.scheme]
                reader, writer = await asyncio.open_connection(url.hostname, port, ssl=context)
                try:
                    if (await reader.read(5)).startswith(b"INFO"):
                        return True
                finally:
                    writer.close()
    return False


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
