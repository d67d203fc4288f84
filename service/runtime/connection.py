"""The NATS connection: credentials in memory, TLS by URL, reconnecting for ever with jittered backoff."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import structlog
from nats.aio.client import Client, RawCredentials, Server
from nats.js import JetStreamContext

from service.runtime.errors import ServiceError
from service.runtime.role import Skipped
from service.runtime.settings import NatsSettings

log: Final = structlog.get_logger("service.connection")

START_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 2
RECONNECT_MAX_S: Final = 2.0
PING_INTERVAL_S: Final = 10
_REFUSALS: Final = ("authorization", "authentication", "account authentication expired")


class Connection:
    """One connection, its credentials and the log lines about it.

    | state | `_opened` | `_started` | `_closing` | |
    | --- | --- | --- | --- | --- |
    | new | no | no | no | `open` was not called; `close` does nothing |
    | opening | yes | no | no | a refusal makes `open` fail |
    | open | yes | yes | no | a second refusal in a row, or a close that nobody asked for, goes to `on_lost`, once |
    | closing | yes | any | yes | by `close`, or after `on_lost`; nothing more is reported |
    """

    def __init__(
        self, settings: NatsSettings, *, name: str, inbox_prefix: str, on_lost: Callable[[ServiceError], None]
    ) -> None:
        """`name` is shown by the server; `inbox_prefix` is the one that the role's NATS user may subscribe to."""
        self.nc = Client()
        self._settings = settings
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._on_lost = on_lost
        self._opened = False
        self._started = False
        self._closing = False
        self._refused_twice = False
        self._last_error = ""
        self._refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect.

        Raises `ServiceError` when the server refuses the credentials, or none answers in `START_TIMEOUT_S` seconds.
        """
        creds = self._settings.nats_credentials
        connecting = asyncio.create_task(
            self.nc.connect(
                self._settings.nats_servers,
                name=self._name,
                user_credentials=RawCredentials(creds.get_secret_value()) if creds else None,
                inbox_prefix=self._inbox_prefix,
                skip_subject_validation=True,  # ours are checked, a requester's inbox came as one word
                connect_timeout=CONNECT_TIMEOUT_S,
                reconnect_time_wait=1,
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL_S,
                reconnect_to_server_handler=_next_server,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnect,
                reconnected_cb=self._on_reconnect,
                closed_cb=self._on_close,
            )
        )
        self._opened = True
        await asyncio.wait({connecting, self._refused}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            connecting.cancel()
        outcome = (await asyncio.gather(connecting, return_exceptions=True))[0]
        if self._refused.done():
            raise self._refusal()
        if isinstance(outcome, BaseException):
            reason = self._last_error or str(outcome) or "no answer"
            raise ServiceError(
                f"no NATS server at {self._settings.nats_url} ({reason})",
                "correct NATS_URL, or start the server",
            )
        self._started = True

    @property
    def jetstream(self) -> JetStreamContext:
        """Raises `Skipped` before the connection is open."""
        if not self._started:
            raise Skipped
        return self.nc.jetstream()

    async def close(self) -> None:
        self._closing = True
        if self._opened:
            await self.nc.close()

    def _refusal(self) -> ServiceError:
        problem = f"NATS at {self._settings.nats_url} refuses the credentials ({self._last_error})"
        return ServiceError(
            problem,
            "put current ones into NATS_CREDENTIALS (base64 of the .creds file)",
        )

    async def _on_error(self, error: Exception) -> None:
        self._last_error = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
        refusal = any(word in self._last_error.lower() for word in _REFUSALS)
        if refusal and not self._started and not self._refused.done():
            self._refused.set_result(None)
        elif refusal and self._refused_twice:
            self._lose(self._refusal())
        elif self._started:
            log.warning("NATS error", error=self._last_error)
        self._refused_twice = refusal

    async def _on_disconnect(self) -> None:
        if self._started and not self._closing:
            log.warning("NATS connection lost", server=self._settings.nats_url)

    async def _on_reconnect(self) -> None:
        self._refused_twice = False
        url = self.nc.connected_url
        log.info("NATS connection restored", server=url.netloc if url else "")

    async def _on_close(self) -> None:
        if not self._started or self._closing:
            return
        reason = str(self.nc.last_error or self._last_error)
        if any(word in reason.lower() for word in _REFUSALS):
            self._last_error = reason.removeprefix("nats: ").strip("'")
            self._lose(self._refusal())
        else:
            self._lose(ServiceError(f"NATS closed the connection ({reason})", "see the server's log"))

    def _lose(self, fault: ServiceError) -> None:
        if not self._closing:
            self._closing = True
            self._on_lost(fault)


async def roundtrip(nc: Client) -> None:
    """Return when the server has processed everything that was sent so far.

    nats-py's `flush` writes its PING at once, but what was published or subscribed only with the next flush: its first
    answer proves nothing, the second one's PING is behind them.
    """
    await nc.flush()
    await nc.flush()


def _next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
    """The server tried least, after full-jitter backoff that grows with how often it was."""
    server = min(servers, key=lambda candidate: candidate.reconnects)
    return server, random.uniform(0.0, min(RECONNECT_MAX_S, 0.1 * 2 ** min(server.reconnects, 5)))
