"""TLS where the URL asks for it.

nats-py upgrades only when the server's INFO asks for it; it would send credentials in clear.
"""

from __future__ import annotations

from typing import Any

import nats.errors
from nats.aio.client import Client


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
