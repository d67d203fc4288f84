"""The TLS context of a client with a certificate. `link/reconnect.py` enforces TLS for `tls://`."""

from __future__ import annotations

import ssl

from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError


def tls_context(settings: NatsSettings) -> ssl.SSLContext | None:
    """Return a context with the client's certificate, or None if none is set. It trusts SSL_CERT_FILE's authorities.

    Raise `ServiceError` if the files cannot be used.
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
