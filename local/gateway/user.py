"""The NATS side of the HTTP gateway: one connection per user, shared by many HTTP requests.

nats-py reports a refused publication by an error with the subject in lower case, and not which publication it was. So
the first publication to a subject runs alone, with a round trip behind it: a refusal arrives before the PONG. A subject
that passed once counts as permitted, and its requests run concurrently.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import nats.errors
from nats.aio.msg import Msg

from service.nats.client import NatsClient, roundtrip
from service.nats.connect import NotConnectedError, connect

CONNECT_S: Final = 2
MAX_PERMITTED: Final = 1000
_VIOLATION: Final = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)

Result = TypeVar("Result")


class GatewayError(Exception):
    """An HTTP status, and the reason that goes into `x-nats-api-gateway-error`."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Connection:
    """One connection, until it is lost."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.nc = NatsClient(on_closed=self._on_lost)
        self._alone = asyncio.Lock()
        self._permitted: dict[str, None] = {}
        self._refused = ""

    async def open(self, servers: str, creds: str) -> None:
        await connect(
            self.nc,
            servers,
            creds,
            within_s=CONNECT_S,
            reconnects=False,
            on_error=self._on_error,
            name="http-gateway",
            disconnected_cb=self._on_disconnected,
            skip_subject_validation=True,  # the gateway's own rule is stricter
        )

    async def publish(self, subject: str, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run `work`, which publishes to `subject`, to its end.

        Raises `GatewayError` when the server refuses the subject or the connection is lost.
        """
        if subject in self._permitted:
            running = asyncio.ensure_future(work())
            return await self._unless_lost(running)
        async with self._alone:
            self._refused = ""
            running = asyncio.ensure_future(work())
            running.add_done_callback(_heard)
            await self._unless_lost(asyncio.ensure_future(roundtrip(self.nc)))
            if self._refused == subject.lower():
                raise GatewayError(403, f"not permitted to publish to {subject}")
        if len(self._permitted) >= MAX_PERMITTED:
            self._permitted.pop(next(iter(self._permitted)))
        self._permitted[subject] = None
        return await self._unless_lost(running)

    async def _unless_lost(self, running: asyncio.Future[Result]) -> Result:
        """Return the result of `running`, which is never cancelled: its PONG would answer another round trip."""
        running.add_done_callback(_heard)
        either: set[asyncio.Future[Any]] = {running, self.lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise GatewayError(503, "the connection to NATS was lost")
        return running.result()

    async def _on_error(self, error: Exception) -> None:
        violation = _VIOLATION.search(str(error))
        if violation:
            self._refused = violation[1].lower()
            if not self._alone.locked():  # a permission was revoked: try every subject alone again
                self._permitted.clear()

    async def _on_disconnected(self) -> None:
        self._on_lost()

    def _on_lost(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


def _heard(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception, or asyncio logs it if no caller waits any more."""
    if not done.cancelled():
        done.exception()


class User:
    """One NATS user. It connects when its token is first used, and again after the connection was lost."""

    def __init__(self, servers: str, creds: str) -> None:
        self._servers = servers
        self._creds = creds
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def request(self, subject: str, payload: bytes, headers: dict[str, str], timeout_s: float) -> Msg:
        """Send a request and return the reply. Raises `GatewayError`."""
        connection = await self._connected()
        _check_size(connection.nc, payload, headers)
        try:
            return await connection.publish(
                subject,
                lambda: connection.nc.request(subject, payload, timeout=timeout_s, headers=headers or None),
            )
        except nats.errors.NoRespondersError:
            raise GatewayError(503, f"no responders for {subject}") from None
        except nats.errors.TimeoutError:
            raise GatewayError(504, f"no reply within {timeout_s * 1000:g} ms") from None

    async def publish(self, subject: str, payload: bytes, reply: str, headers: dict[str, str]) -> None:
        """Return when the server has processed the message. Raises `GatewayError`."""
        connection = await self._connected()
        _check_size(connection.nc, payload, headers)

        async def publish() -> None:
            await connection.nc.publish(subject, payload, reply=reply, headers=headers or None)
            await roundtrip(connection.nc)

        await connection.publish(subject, publish)

    async def close(self) -> None:
        if self._connection:
            await self._connection.nc.close()

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is None or self._connection.lost.done() or not self._connection.nc.is_connected:
                await self.close()
                connection = _Connection()
                try:
                    await connection.open(self._servers, self._creds)
                except NotConnectedError as error:
                    await connection.nc.close()
                    raise GatewayError(503, f"NATS cannot be reached: {error}") from None
                self._connection = connection
            return self._connection


def _check_size(nc: NatsClient, payload: bytes, headers: dict[str, str]) -> None:
    """Raise 413 for a message for which the server would close the connection: its limit includes the headers."""
    header_bytes = sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    if len(payload) + (header_bytes + len(b"NATS/1.0\r\n\r\n") if headers else 0) > nc.max_payload:
        raise GatewayError(413, "payload too large")
