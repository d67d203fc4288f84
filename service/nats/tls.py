"""TLS whenever the URL asks for it.

nats-py upgrades only if the server's INFO asks for it, and would otherwise send credentials in clear text.
"""

from __future__ import annotations

import ssl
from typing import Any

import nats.errors
from nats.aio.client import Client

from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError


class TlsClient(Client):
    """nats-py's client, which for `tls://` and `wss://` uses TLS or raises before it sends a credential."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        server = self._current_server
        if initial_connection and server and server.uri.scheme == "tls":  # wss has TLS before any INFO
            if info.get("tls_available"):
                info["tls_required"] = True
            if not info.get("tls_required"):
                raise nats.errors.Error(
                    f"{server.uri.hostname}:{server.uri.port} offers no TLS; use nats:// or enable it"
                )
        await super()._process_info(info, initial_connection)


def tls_context(settings: NatsSettings) -> ssl.SSLContext | None:
    """Return a context with the client's certificate, or None if none is set. It trusts SSL_CERT_FILE's authorities.

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
