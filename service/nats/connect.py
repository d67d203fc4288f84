"""Connect a client, for every program: roles, which reconnect without end, and commands, which fail at once.

An attempt ends early when a server refuses the credentials, offers no TLS where the URL asks for it, or shows a
certificate that does not verify: another attempt would fail in the same way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from nats.aio.client import RawCredentials

from service.nats.client import NatsClient
from service.nats.link.reconnect import REFUSALS, NoTlsError
from service.nats.settings import shown
from service.runtime.cancel import cancel

SERVER_S: Final = 2
"""Seconds for one server, while others or a later round may succeed."""


class NotConnectedError(Exception):
    """No server accepted the client. `cause` is the error that ended the attempt, else the last one, else a timeout."""

    def __init__(self, servers: Sequence[str], cause: BaseException) -> None:
        super().__init__(text(cause))
        self.servers = shown(servers)
        self.cause = cause


async def _ignore(_: Exception) -> None:
    pass


async def connect(
    nc: NatsClient,
    servers: str | Sequence[str],
    creds: str | None,
    *,
    within_s: float,
    reconnects: bool,
    on_error: Callable[[Exception], Awaitable[None]] = _ignore,
    **options: Any,
) -> None:
    """Connect within `within_s` seconds, as the user in `creds`, a `.creds` file's text. `options` are nats-py's.

    `on_error` is called with each error, even after this returns. Without `reconnects`, each server is tried once, and
    a lost connection closes the client. Raise `NotConnectedError` on failure; the caller then closes the client.
    """
    addresses = servers.split(",") if isinstance(servers, str) else list(servers)
    final: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    last: Exception | None = None

    async def heard(error: Exception) -> None:
        nonlocal last
        last = error
        if not final.done() and (is_refusal(error) or isinstance(error, NoTlsError | ssl.SSLCertVerificationError)):
            final.set_result(error)
        await on_error(error)

    options |= {
        "user_credentials": RawCredentials(creds) if creds else None,
        "connect_timeout": SERVER_S if reconnects else within_s,
        "allow_reconnect": reconnects,
        "max_reconnect_attempts": -1 if reconnects else 1,
    }
    attempt = asyncio.create_task(nc.connect(addresses, error_cb=heard, **options))
    either: set[asyncio.Future[Any]] = {attempt, final}
    try:
        await asyncio.wait(either, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(attempt)
    if final.done():
        raise NotConnectedError(addresses, final.result())
    if attempt.cancelled():
        raise NotConnectedError(addresses, last or TimeoutError("no answer"))
    if error := attempt.exception():
        raise NotConnectedError(addresses, last or error) from error


@asynccontextmanager
async def connected(
    servers: str | Sequence[str],
    creds: str | None,
    explain: Callable[[NotConnectedError], Exception],
    *,
    client: Callable[[], NatsClient] = NatsClient,
    **options: Any,
) -> AsyncIterator[NatsClient]:
    """Yield a `client` connected by `connect`, then close it. If it cannot connect, raise `explain(error)`."""
    nc = client()
    try:
        try:
            await connect(nc, servers, creds, **options)
        except NotConnectedError as error:
            raise explain(error) from None
        yield nc
    finally:
        await nc.close()


def is_refusal(error: BaseException) -> bool:
    """Return whether the server refused the credentials."""
    return text(error).lower() in REFUSALS


def text(error: BaseException) -> str:
    """Return the error's text, without what nats-py adds to the server's."""
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__
