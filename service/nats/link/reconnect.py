"""nats-py's client with a reconnect that does not give up: which server is next, what its INFO says, when to stop.

nats-py 2.16 ends the client when anything but a network error happens while it reconnects, and ignores part of a
later INFO. Here

| event | effect |
| --- | --- |
| the connection is lost, at whatever step | servers are tried in rounds, without end |
| a server is silent | the next is tried a quarter of a second later; the first to answer is used |
| a server accepts, then fails in any way | it is tried after the others |
| `tls://` or `wss://`, but no TLS | `NoTlsError` before any credential is sent |
| an error that is not about credentials (`maximum payload violation`, `slow consumer`) | it connects again |
| a later INFO names another payload limit, or other servers | they apply from then on |

Only `close`, or a refusal of the credentials while connected, ends the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import unquote

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.transport import Transport
from nats.protocol import command

from service.nats.link.servers import Servers
from service.nats.link.transport import INFO_MAX, Tcp, WebSocket, close
from service.runtime.background import background
from service.runtime.cancel import cancel

TLS: Final = frozenset({"tls", "wss"})
REFUSALS: Final = frozenset({
    "authorization violation",
    "authorization failed",  # nats-py's wording
    "authentication error",
    "authentication expired",
    "authentication revoked",
    "user authentication expired",
    "user authentication revoked",
    "account authentication expired",
})  # fmt: skip
"""The server's refusals, compared as a whole: other errors may quote text that a requester sent.

https://github.com/nats-io/nats-server/blob/main/server/errors.go
"""
RACE_S: Final = 0.25
"""Seconds. When a server has not answered for this long, the next is tried in parallel."""


class NoTlsError(nats.errors.Error):
    """The URL asks for TLS and the server offers none."""


class ReconnectingClient(Client):
    """See above. Calls `on_odd_server(address)` for each address in an INFO that does not parse."""

    def __init__(self, on_odd_server: Callable[[str], None]) -> None:
        super().__init__()
        self._servers = Servers((), on_odd_server)
        self._on_odd_server = on_odd_server

    def connection_lost(self) -> None:
        """Forget what ended with the connection. A hook for subclasses."""

    def connection_restored(self) -> None:
        """Note that the connection is back and the server has confirmed every subscription. A hook for subclasses."""

    def _setup_server_pool(self, connect_url: str | list[str]) -> None:
        """Upstream: the pool never forgets a server that an INFO named (`link/servers.py`)."""
        super()._setup_server_pool(connect_url)  # type: ignore[arg-type]
        self._servers = Servers(self._server_pool, self._on_odd_server)

    async def _select_next_server(self) -> None:
        """Connect to the first server that answers, in as many rounds as it takes; one round if not `allow_reconnect`.

        Raise `NoServersError` after that one round. Upstream: a silent server takes its whole timeout.
        """
        while True:
            await asyncio.sleep(self._servers.backoff_s())
            self._servers.begin_round()
            if await self._race(self._servers.in_order()):
                return
            if not self.options["allow_reconnect"]:
                raise nats.errors.NoServersError

    async def _race(self, servers: Sequence[Srv]) -> bool:
        """Try each server, `RACE_S` after the one before. Return whether one is connected."""
        waiting, attempts = list(servers), dict[asyncio.Task[Transport], Srv]()
        try:
            while waiting or attempts:
                if waiting:
                    server = waiting.pop(0)
                    attempts[asyncio.create_task(self._open(server))] = server
                done, _ = await asyncio.wait(
                    attempts, timeout=RACE_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    server = attempts.pop(attempt)
                    if error := attempt.exception():
                        await self._failed(server, error)
                    else:
                        self._transport, self._current_server = attempt.result(), server
                        return True
            return False
        finally:
            for attempt in attempts:  # one that has just connected may miss its cancellation, so close it when done
                attempt.add_done_callback(_discard)
                attempt.cancel()

    async def _open(self, server: Srv) -> Transport:
        is_websocket = server.uri.scheme in {"ws", "wss"}
        transport = WebSocket(server.tls_name) if is_websocket else Tcp()
        timeout_s = self.options["connect_timeout"]
        try:
            async with asyncio.timeout(timeout_s):
                if server.uri.scheme == "wss":
                    await transport.connect_tls(server.uri, self.ssl_context, INFO_MAX, timeout_s)
                else:
                    await transport.connect(server.uri, INFO_MAX, timeout_s)
                if not self.options["tls_handshake_first"]:
                    await transport.hear()
        except BaseException:
            await close(transport)
            raise
        return transport

    async def _failed(self, server: Srv, error: BaseException) -> None:
        self._servers.bad(server)
        if not isinstance(error, Exception):
            raise error
        self._err = error
        await self._error_cb(error)

    async def _process_err(self, err_msg: str) -> None:
        """End the client only when its credentials are refused; after any other error, keep or remake the connection.

        Upstream: every error but a permissions violation and a stale connection ends the client.
        """
        said = err_msg.strip("'").lower()
        if said in REFUSALS or said.startswith(("permissions violation", "stale connection")):
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error(f"nats: {said}")
        self._err = error
        await self._error_cb(error)
        if said != "maximum subscriptions exceeded":  # the server keeps the connection after this one
            await self._process_op_err(error)

    async def _attempt_reconnect(self) -> None:
        """Upstream: an error other than the network's ends the client; two attempts close each other's connection."""
        await self._drop()
        self._servers.lost()
        self._err = None
        if self._disconnected_cb is not None:
            await self._disconnected_cb()
        while not self.is_closed:
            server: Srv | None = None
            try:
                await self._select_next_server()
                server = self._current_server
                await self._process_connect_init()
                await self._subscribe_again()
                await self.flush()
                if asyncio.current_task() is not self._reconnection_task:
                    return  # the connection was lost again, and `flush` swallowed this task's cancellation
            except Exception as error:  # whatever it was, another server or a later round may succeed
                if asyncio.current_task() is not self._reconnection_task or self.is_closed:
                    return  # another task reconnects: two would close each other's connection
                self._status = Client.RECONNECTING
                if server:
                    await self._failed(server, error)
                await self._drop()
                continue
            self.stats["reconnects"] += 1
            self.connection_restored()
            if self._reconnected_cb is not None:
                await self._reconnected_cb()
            return

    async def _drop(self) -> None:
        """Close the connection and its tasks, at whatever stage it is."""
        self.connection_lost()
        for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        if self._transport is not None:
            await close(self._transport)
        self._ps.reset()
        for pong in self._pongs:  # these PINGs will never be answered
            if not pong.done():
                pong.set_exception(nats.errors.ConnectionReconnectingError())
                pong.exception()  # marks it as read: asyncio would log it if no `flush` waits
        self._pongs = []

    async def _subscribe_again(self) -> None:
        assert self._transport is not None  # noqa: S101  it has just been connected
        for sid, subscription in list(self._subs.items()):
            limit, left = subscription._max_msgs, subscription._max_msgs - subscription._received
            if limit and left <= 0:
                self._subs.pop(sid)
                continue
            self._transport.write(command.sub_cmd(subscription._subject, subscription._queue, sid))
            if limit:
                self._transport.write(command.unsub_cmd(sid, left))
        await self._transport.drain()
        await self._flush_pending()

    async def _process_connect_init(self) -> None:
        """Upstream: an INFO that cannot be parsed ends `connect`; a first line that is not PONG is ignored."""
        try:
            await super()._process_connect_init()
        except (OSError, nats.errors.Error, TimeoutError):
            raise
        except Exception as error:  # nats-py's `connect` retries only after the types above
            raise nats.errors.Error(f"the server cannot be understood ({type(error).__name__}: {error})") from error
        if not self.is_connected:
            raise nats.errors.Error("the server says something else before its first PONG")
        assert self._current_server is not None  # noqa: S101  it has just been connected to
        self._servers.good(self._current_server)

    def _connect_command(self) -> bytes:
        """Decode the URL's user and password first: https://www.rfc-editor.org/rfc/rfc3986#section-2.1

        Upstream: they are sent as in the URL, percent-encoded.
        """
        uri, options = self._current_server.uri if self._current_server else None, self.options
        if uri is not None and uri.username is not None:
            user, password = unquote(uri.username), None if uri.password is None else unquote(uri.password)
            its_own = {"token": user} if password is None else {"user": user, "password": password}
            self.options = {**options, **its_own}  # for this server only
        try:
            return super()._connect_command()
        finally:
            self.options = options

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Upstream: `tls://` without TLS sends credentials in the clear; a later payload limit is ignored."""
        server = self._current_server
        assert server is not None  # noqa: S101  this INFO comes from it
        if initial_connection and server.uri.scheme == "tls":
            if info.get("tls_available"):
                info["tls_required"] = True  # by this client
            if not info.get("tls_required"):
                raise NoTlsError(f"{server.uri.hostname}:{server.uri.port} offers no TLS")
        self._servers.take(info, server)
        self._server_pool = self._servers.all()
        if isinstance(limit := info.get("max_payload"), int):
            self._max_payload = limit  # the account's limit comes in an INFO after CONNECT
        await super()._process_info({**info, "connect_urls": None}, initial_connection)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Upstream: the reconnecting task may swallow its cancellation, and reconnect a closed client."""
        await super()._close(status, do_cbs)
        if status == Client.CLOSED:
            await self._end_reconnection()

    async def _end_reconnection(self) -> None:
        """End the reconnecting task, unless it is the current one. `cancel` repeats: nats-py may swallow one."""
        task = self._reconnection_task
        if task is not None and task is not asyncio.current_task() and not task.done():
            await cancel(task)
            self._status = Client.CLOSED  # the task had set RECONNECTING


def _discard(attempt: asyncio.Task[Transport]) -> None:
    if not attempt.cancelled() and not attempt.exception():
        background(close(attempt.result()), "close")
