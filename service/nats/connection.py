"""The NATS connection: credentials in memory, TLS by URL, endless reconnecting with jittered backoff."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from nats.aio.client import Client, RawCredentials
from nats.js import JetStreamContext

from service.nats import creds
from service.nats.client import NatsClient
from service.nats.link.reconnect import REFUSALS, NoTlsError
from service.nats.settings import NatsSettings
from service.nats.tls import tls_context
from service.nats.unreachable import unreachable
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.errors import NoAnswer, ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need, Skipped

log: Final = structlog.get_logger("service.connection")
_errors: Final = Repeated(log, "NATS error")
_undecodable: Final = Repeated(log, "messages dropped that cannot be decoded")

START_TIMEOUT_S: Final = 10.0
LOOKS: Final = 4
"""At what a role needs, while no server answers. Each takes 5 seconds, and an election 4 to 9."""
CONNECT_TIMEOUT_S: Final = 2
PING_INTERVAL_S: Final = 10
CLOSE_S: Final = 1.0
CONFIRM_POLL_S: Final = 0.05


class Connection:
    """One connection, its credentials and the log lines about it.

    | state | `_opened` | `_started` | `_closing` | |
    | --- | --- | --- | --- | --- |
    | new | no | no | no | `open` was not called; `close` does nothing |
    | opening | yes | no | no | a refusal makes `open` fail |
    | open | yes | yes | no | a second refusal in a row, or a close from elsewhere, calls `on_lost` once |
    | closing | yes | any | yes | after `close` or `on_lost`; nothing more is reported |
    """

    def __init__(
        self, settings: NatsSettings, *, name: str, inbox_prefix: str, on_lost: Callable[[ServiceError], None]
    ) -> None:
        """`name` appears in the server's lists; the role's NATS user must be allowed to subscribe to `inbox_prefix`."""
        self.nc = NatsClient(self._on_undecodable, self._on_close, self._on_odd_server)
        self._settings = settings
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._on_lost = on_lost
        self._forbidden = False
        self._opened = False
        self._started = False
        self._closing = False
        self._refused_twice = False
        self._last_error = ""
        self._refused: asyncio.Future[ServiceError] = asyncio.get_running_loop().create_future()
        self._lost = asyncio.Event()
        """Set when the connection is lost; `steady` clears it before each look."""

    async def open(self) -> None:
        """Connect.

        Raises `ServiceError` when a server refuses the credentials, or none answers within `START_TIMEOUT_S` seconds.
        """
        given, context = self._settings.nats_credentials, tls_context(self._settings)
        connecting = asyncio.create_task(
            self.nc.connect(
                self._settings.nats_servers,
                name=self._name,
                user_credentials=RawCredentials(given.get_secret_value()) if given else None,
                inbox_prefix=self._inbox_prefix,
                skip_subject_validation=True,  # our subjects are constants; a requester's inbox was parsed as one word
                connect_timeout=CONNECT_TIMEOUT_S,
                tls_handshake_first=self._settings.nats_tls_handshake_first,
                tls=context,
                max_reconnect_attempts=-1,
                ping_interval=PING_INTERVAL_S,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnect,
                reconnected_cb=self._on_reconnect,
            )
        )
        self._opened = True
        either: set[asyncio.Future[Any]] = {connecting, self._refused}
        await asyncio.wait(either, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            await cancel(connecting)
        outcome = (await asyncio.gather(connecting, return_exceptions=True))[0]
        if self._refused.done():
            raise self._refused.result()
        if isinstance(outcome, BaseException):
            reason = self._last_error or str(outcome) or "no answer"
            asks = bool(self.nc._server_info.get("tls_verify"))
            raise await unreachable(self._settings, reason, asks_for_certificate=asks)
        self._started = True

    def steady(self, need: Need) -> Need:
        """Return a need that looks again if the connection was lost meanwhile: that answer is not the server's.

        It also looks again, `LOOKS` times in all, if there is no answer and the server forbade nothing: a cluster may
        be electing a leader. It raises `ServiceError` when the connection is not back within `START_TIMEOUT_S` seconds.
        """

        async def look() -> str | None:
            left = LOOKS
            while True:
                self._lost.clear()
                looking, lost = asyncio.create_task(_awaited(need.look())), asyncio.create_task(self._lost.wait())
                try:
                    await asyncio.wait({looking, lost}, return_when=asyncio.FIRST_COMPLETED)
                    if not self._lost.is_set():
                        return await looking
                except NoAnswer:
                    left -= 1
                    if self._forbidden or not left:
                        raise
                    continue
                finally:
                    await cancel(looking)
                    await cancel(lost)
                await self._until_back()

        return Need(need.name, look)

    async def _until_back(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await confirm(self.nc)
        except TimeoutError:
            raise await unreachable(self._settings, self._last_error or "lost", asks_for_certificate=False) from None
        if self._refused.done():
            raise self._refused.result()

    @property
    def jetstream(self) -> JetStreamContext:
        """JetStream over this connection. Raises `Skipped` before the connection is open."""
        if not self._started:
            raise Skipped
        return self.nc.jetstream()

    async def close(self) -> None:
        """Close within `CLOSE_S` seconds. Never raises: nothing is left to do about an error here."""
        self._closing = True
        if not self._opened:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.nc.close()
        except Exception as error:
            log.debug("NATS connection not closed", error=str(error))

    def _refusal(self) -> ServiceError:
        said, given = self._last_error, self._settings.nats_credentials
        if given and (end := creds.parse(given.get_secret_value()).end) and end <= _now():
            said += f": NATS_CREDENTIALS expired at {end}"
        return ServiceError(
            f"NATS at {self._settings.nats_shown} refuses the credentials ({said})",
            "put current ones into NATS_CREDENTIALS (base64 of the .creds file)",
        )

    async def _on_error(self, error: Exception) -> None:
        self._last_error = _text(error)
        refusal = self._last_error.lower() in REFUSALS
        if not self._started:
            if refusal:
                self._refuse(self._refusal())
            elif isinstance(error, NoTlsError):
                self._refuse(self._no_tls(error))
            elif isinstance(error, ssl.SSLCertVerificationError):
                self._refuse(self._distrust(error))
        elif refusal and self._refused_twice:
            self._lose(self._refusal())
        else:
            permission = self._last_error.lower().startswith("permissions violation")
            self._forbidden |= permission
            _errors.warning("permission" if permission else type(error).__name__, error=self._last_error)
        self._refused_twice = refusal  # any other error, or a reconnect, resets it

    def _refuse(self, error: ServiceError) -> None:
        if not self._refused.done():
            self._refused.set_result(error)

    def _no_tls(self, error: Exception) -> ServiceError:
        return ServiceError(f"NATS: {error}, and NATS_URL asks for TLS", "use a server with TLS, or nats:// without it")

    def _distrust(self, error: ssl.SSLCertVerificationError) -> ServiceError:
        problem = f"NATS at {self._settings.nats_shown} has a certificate that does not verify ({error.verify_message})"
        return ServiceError(problem, "use a name of the certificate in NATS_URL, and its authority in SSL_CERT_FILE")

    def _on_undecodable(self, error: Exception) -> None:
        _undecodable.warning("", error=type(error).__name__)

    def _on_odd_server(self, address: str) -> None:
        log.warning("a server named an address that does not parse", address=address[:100])

    async def _on_disconnect(self) -> None:
        self._lost.set()
        if self._started and not self._closing:
            log.warning("NATS connection lost", server=self._settings.nats_shown)

    async def _on_reconnect(self) -> None:
        self._refused_twice = False
        url = self.nc.connected_url
        log.info("NATS connection restored", server=f"{url.hostname}:{url.port}" if url else "")

    def _on_close(self) -> None:
        if not self._started or self._closing:
            return
        reason = _text(self.nc.last_error) if self.nc.last_error else self._last_error
        if reason.lower() in REFUSALS:
            self._last_error = reason
            self._lose(self._refusal())
        else:
            self._lose(ServiceError(f"NATS closed the connection ({reason})", "see the server's log"))

    def _lose(self, fault: ServiceError) -> None:
        """Report the fault and stop reconnecting, so that a drain does not wait for a connection that cannot come."""
        if not self._closing:
            self._closing = True
            self._on_lost(fault)
            background(self.nc.close(), "close")


async def _awaited(looking: Awaitable[str | None]) -> str | None:
    return await looking


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(error: Exception) -> str:
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__


async def roundtrip(nc: Client) -> None:
    """Return when the server has processed everything sent so far.

    nats-py's `flush` writes its PING at once, ahead of publishes and subscriptions still in its buffer, so the first
    PONG proves nothing. The second PING follows them.
    """
    await nc.flush()
    await nc.flush()


async def confirm(nc: Client) -> None:
    """Return when the server has processed everything sent so far, however long it is unreachable meanwhile."""
    while not nc.is_closed:
        if nc.is_connected:
            try:
                await roundtrip(nc)
            except Exception as error:
                log.debug("no answer from NATS", error=str(error))
            else:
                return
        await asyncio.sleep(CONFIRM_POLL_S)
