"""nats-py's client, made to find its way back: which server is next, what it says of itself, and when to give up.

nats-py 2.16 ends a client for good when anything but a network error happens while it reconnects, and takes over half
of what a server says of itself. Here

| what happens | what follows |
| --- | --- |
| the connection is lost, at whatever step | servers are tried in rounds, without end |
| a server is silent | the next one is tried a quarter of a second later; the first that answers is taken |
| a server accepts, and then fails in whatever way | it is tried after the others |
| `tls://` or `wss://`, and no TLS | `NoTlsError` before a credential is sent |
| an error that is not about credentials (`maximum payload violation`, `slow consumer`) | it connects again |
| an INFO later says another payload limit, or other servers | they count from then on |

Only `close`, and a refusal of the credentials while connected, end it.
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
    "authorization failed",  # nats-py's word for it
    "authentication error",
    "authentication expired",
    "authentication revoked",
    "user authentication expired",
    "user authentication revoked",
    "account authentication expired",
})  # fmt: skip
"""What the server says of a connection, whole: any other error may quote what a requester sent.

https://github.com/nats-io/nats-server/blob/main/server/errors.go
"""
RACE_S: Final = 0.25
"""A server that has not answered for so long is raced by the next."""


class NoTlsError(nats.errors.Error):
    """The URL asks for TLS and the server offers none."""


class ReconnectingClient(Client):
    """See above. `on_odd_server(address)` is called for each address that a server said and that does not parse."""

    def __init__(self, on_odd_server: Callable[[str], None]) -> None:
        super().__init__()
        self._servers = Servers((), on_odd_server)
        self._on_odd_server = on_odd_server

    def connection_lost(self) -> None:
        """Forget what ended with the connection."""

    def connection_restored(self) -> None:
        """All is as before: subscriptions are made again, and the server has confirmed them."""

    def _setup_server_pool(self, connect_url: str | list[str]) -> None:
        super()._setup_server_pool(connect_url)  # type: ignore[arg-type]
        self._servers = Servers(self._server_pool, self._on_odd_server)

    async def _select_next_server(self) -> None:
        """Connect to the first server that answers, in as many rounds as it takes; in one, without `allow_reconnect`.

        Raises `NoServersError` after that one.
        """
        while True:
            await asyncio.sleep(self._servers.backoff_s())
            self._servers.begin_round()
            if await self._race(self._servers.in_order()):
                return
            if not self.options["allow_reconnect"]:
                raise nats.errors.NoServersError

    async def _race(self, servers: Sequence[Srv]) -> bool:
        """Connect to each, `RACE_S` after the one before. Returns whether one is connected."""
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
            for attempt in attempts:  # one that has connected meanwhile forgets that it is cancelled
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
        """A refusal of the credentials ends the client. After any other error, the server or the client goes on.

        nats-py ends the client for all but permissions and a stale connection.
        """
        said = err_msg.strip("'").lower()
        if said in REFUSALS or said.startswith(("permissions violation", "stale connection")):
            await super()._process_err(err_msg)
            return
        error = nats.errors.Error(f"nats: {said}")
        self._err = error
        await self._error_cb(error)
        if said != "maximum subscriptions exceeded":  # after that the server goes on
            await self._process_op_err(error)

    async def _attempt_reconnect(self) -> None:
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
                    return  # the connection was lost again, and `flush` forgot that it was cancelled
            except Exception as error:  # whatever it was, another server or a later round may do
                if asyncio.current_task() is not self._reconnection_task or self.is_closed:
                    return  # another task reconnects: two would take each other's connection away
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
        """End what belongs to the connection, as far as it had come."""
        self.connection_lost()
        for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        if self._transport is not None:
            await close(self._transport)
        self._ps.reset()
        for pong in self._pongs:  # nobody answers those PINGs any more
            if not pong.done():
                pong.set_exception(nats.errors.ConnectionReconnectingError())
                pong.exception()  # where nobody waits, nobody misses it
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
        try:
            await super()._process_connect_init()
        except (OSError, nats.errors.Error, TimeoutError):
            raise
        except Exception as error:  # nats-py's `connect` tries again only after those
            raise nats.errors.Error(f"the server cannot be understood ({type(error).__name__}: {error})") from error
        if not self.is_connected:  # nats-py goes on as if it were, when the first line is no PONG
            raise nats.errors.Error("the server says something else before its first PONG")
        assert self._current_server is not None  # noqa: S101  it has just been connected to
        self._servers.good(self._current_server)

    def _connect_command(self) -> bytes:
        """The user of a URL is percent-encoded there: https://www.rfc-editor.org/rfc/rfc3986#section-2.1"""
        uri, options = self._current_server.uri if self._current_server else None, self.options
        if uri is not None and uri.username is not None:
            user, password = unquote(uri.username), None if uri.password is None else unquote(uri.password)
            its_own = {"token": user} if password is None else {"user": user, "password": password}
            self.options = {**options, **its_own}  # this server's alone
        try:
            return super()._connect_command()
        finally:
            self.options = options

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        server = self._current_server
        assert server is not None  # noqa: S101  it says this
        if initial_connection and server.uri.scheme == "tls":
            if info.get("tls_available"):
                info["tls_required"] = True  # by this client
            if not info.get("tls_required"):
                raise NoTlsError(f"{server.uri.hostname}:{server.uri.port} offers no TLS")
        self._servers.take(info, server)
        self._server_pool = self._servers.all()
        if isinstance(limit := info.get("max_payload"), int):
            self._max_payload = limit  # an account's is said once it is known
        await super()._process_info({**info, "connect_urls": None}, initial_connection)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        await super()._close(status, do_cbs)
        if status == Client.CLOSED:
            await self._end_reconnection()

    async def _end_reconnection(self) -> None:
        """End the reconnecting task, unless this is it: one cancellation may be forgotten."""
        task = self._reconnection_task
        if task is not None and task is not asyncio.current_task() and not task.done():
            await cancel(task)
            self._status = Client.CLOSED  # the task thought that it was reconnecting


def _discard(attempt: asyncio.Task[Transport]) -> None:
    if not attempt.cancelled() and not attempt.exception():
        background(close(attempt.result()), "close")
