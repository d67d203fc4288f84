"""The NATS connection: credentials in memory, TLS by URL, endless reconnects with jittered backoff."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext

from service.nats.client import NatsClient
from service.nats.client import roundtrip as roundtrip  # noqa: PLC0414  found here beside `confirm`
from service.nats.connect import NotConnectedError, connect, is_refusal, text
from service.nats.settings import NatsSettings
from service.nats.tls import tls_context
from service.nats.unreachable import refused, unreachable
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.errors import NoAnswer, ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need, Skipped

log: Final = structlog.get_logger("service.connection")
_errors: Final = Repeated(log, "NATS error")
_undecodable: Final = Repeated(log, "messages dropped that cannot be decoded")

LOOK_AGAIN_S: Final = 1.0
PING_INTERVAL_S: Final = 10
CLOSE_S: Final = 1.0
CONFIRM_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Timing:
    start_timeout_s: float = 10.0
    """Seconds until servers that do not answer are an error."""
    election_s: float = 30.0
    """A cluster elects a leader in 4 to 9 s, and again if it loses a node. A JetStream request waits for 5 s."""


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
        self, settings: NatsSettings, *, name: str, inbox_prefix: str, on_lost: Callable[[ServiceError], None],
        timing: Timing = Timing(),
    ) -> None:  # fmt: skip
        """`name` appears in the server's lists; the role's NATS user must be allowed to subscribe to `inbox_prefix`."""
        self.nc = NatsClient(self._on_undecodable, self._on_close, self._on_odd_server)
        self._settings = settings
        self._name = name
        self._inbox_prefix = inbox_prefix
        self._on_lost = on_lost
        self._timing = timing
        self._forbidden = False
        self._opened = False
        self._started = False
        self._closing = False
        self._refused_twice = False
        self._last_error: Exception = ConnectionError("lost")
        self._lost = asyncio.Event()
        """Set when the connection is lost; `steady` clears it before each look."""

    async def open(self) -> None:
        """Connect.

        Raise `ServiceError` if a server refuses the credentials, or none answers within `start_timeout_s` seconds.
        """
        given, context = self._settings.nats_credentials, tls_context(self._settings)
        self._opened = True
        try:
            await connect(
                self.nc,
                self._settings.nats_servers,
                given.get_secret_value() if given else None,
                within_s=self._timing.start_timeout_s,
                reconnects=True,
                on_error=self._on_error,
                name=self._name,
                inbox_prefix=self._inbox_prefix,
                skip_subject_validation=True,  # our subjects are constants; a requester's inbox was parsed as one word
                tls_handshake_first=self._settings.nats_tls_handshake_first,
                tls=context,
                ping_interval=PING_INTERVAL_S,
                disconnected_cb=self._on_disconnect,
                reconnected_cb=self._on_reconnect,
            )
        except NotConnectedError as error:
            if fault := refused(self._settings, error.cause):
                raise fault from None
            asks = bool(self.nc._server_info.get("tls_verify"))
            raise await unreachable(self._settings, str(error), asks_for_certificate=asks) from None
        self._started = True

    def steady(self, need: Need) -> Need:
        """Return a need that looks again if the connection was lost meanwhile: its answer is then not the server's.

        It also looks again for `election_s` seconds if there is no answer and no permission was denied: a cluster may
        be electing a leader. It raises `ServiceError` if the connection is not back within `start_timeout_s` seconds.
        """

        async def look() -> str | None:
            clock = asyncio.get_running_loop().time
            until_s = clock() + self._timing.election_s
            while True:
                self._lost.clear()
                looking, lost = asyncio.create_task(_awaited(need.look())), asyncio.create_task(self._lost.wait())
                try:
                    await asyncio.wait({looking, lost}, return_when=asyncio.FIRST_COMPLETED)
                    if not self._lost.is_set():
                        return await looking
                except NoAnswer:
                    if self._forbidden or clock() >= until_s:
                        raise
                    await asyncio.sleep(LOOK_AGAIN_S)
                    continue
                finally:
                    await cancel(looking)
                    await cancel(lost)
                await self._until_back()

        return Need(need.name, look)

    async def _until_back(self) -> None:
        try:
            async with asyncio.timeout(self._timing.start_timeout_s):
                await confirm(self.nc)
        except TimeoutError:
            raise await unreachable(self._settings, text(self._last_error), asks_for_certificate=False) from None

    @property
    def jetstream(self) -> JetStreamContext:
        """JetStream over this connection. Raise `Skipped` before the connection is open."""
        if not self._started:
            raise Skipped
        return self.nc.jetstream()

    async def close(self) -> None:
        """Close within `CLOSE_S` seconds. Never raise: no caller could handle an error here."""
        self._closing = True
        if not self._opened:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.nc.close()
        except Exception as error:
            log.debug("NATS connection not closed", error=str(error))

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        refusal = refused(self._settings, error) if is_refusal(error) else None
        if self._started and refusal and self._refused_twice:
            self._lose(refusal)
        elif self._started:
            permission = text(error).lower().startswith("permissions violation")
            self._forbidden |= permission
            _errors.warning("permission" if permission else type(error).__name__, error=text(error))
        self._refused_twice = refusal is not None  # any other error, or a reconnect, resets it

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
        error = self.nc.last_error or self._last_error
        closed = ServiceError(f"NATS closed the connection ({text(error)})", "see the server's log")
        self._lose(refused(self._settings, error) or closed)

    def _lose(self, fault: ServiceError) -> None:
        """Report the fault and stop reconnecting, so that a drain does not wait for a connection that cannot return."""
        if not self._closing:
            self._closing = True
            self._on_lost(fault)
            background(self.nc.close(), "close")


async def _awaited(looking: Awaitable[str | None]) -> str | None:
    return await looking


async def confirm(nc: Client) -> None:
    """Return when the server has processed everything sent so far, even after an outage, or the client is closed."""
    while not nc.is_closed:
        if nc.is_connected:
            try:
                await roundtrip(nc)
            except Exception as error:
                log.debug("no answer from NATS", error=str(error))
            else:
                return
        await asyncio.sleep(CONFIRM_POLL_S)
