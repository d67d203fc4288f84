"""TLS where the URL asks for it.

nats-py upgrades only when the server's INFO asks for it; it would send credentials in clear.
"""

from __future__ import annotations

import ssl
from typing import Any

import nats.errors
from nats.aio.client import Client

from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError


class TlsClient(Client):
    """nats-py's client; with `tls://` or `wss://` it connects with TLS or raises, before a credential is sent."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        server = self._current_server
        if initial_connection and server and server.uri.scheme == "tls":  # wss has its TLS before any INFO
            if info.get("tls_available"):
                info["tls_required"] = True
            if not info.get("tls_required"):
                raise nats.errors.Error(
                    f"{server.uri.hostname}:{server.uri.port} offers no TLS; use nats:// or enable it"
                )
        await super()._process_info(info, initial_connection)


def tls_context(settings: NatsSettings) -> ssl.SSLContext | None:
    """What a client shows of itself, if it is given; the authorities are SSL_CERT_FILE's.

    Raises `ServiceError` when the files cannot be used.
    """
    if not settings.nats_certificate and not settings.nats_key:
        return None
    if not settings.nats_certificate or not settings.nats_key:
        lacking = "NATS_KEY" if settings.nats_certificate else "NATS_CERTIFICATE"
        raise ServiceError(f"{lacking} is not set, and the other is", "set both, or none")
    context = ssl.create_default_context()
    try:
        context.load_cert_chain(settings.nats_certificate, settings.nats_key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM"
        problem = f"NATS_CERTIFICATE {settings.nats_certificate} with NATS_KEY {settings.nats_key} cannot be used"
        raise ServiceError(f"{problem} ({reason})", "give the paths of a PEM certificate and of its key") from None
    return context
