"""Synadia's HTTP gateway, the part that this system's users meet: request/reply and publish over HTTP.

`POST /v1/nats/subjects/{subject}` is a request, `PUT` a publish; `NatsH-Name: value` travels as the NATS header
`Name`. A token acts as its NATS user: on a connection of that user's, with that user's permissions.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import nats.errors
from aiohttp import web
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg

from service.runtime.connection import roundtrip

ERROR_HEADER: Final = "x-nats-api-gateway-error"
HEADER_PREFIX: Final = "NatsH-"
DEFAULT_TIMEOUT_MS: Final = 5_000
MAX_TIMEOUT_MS: Final = 60_000
_VIOLATION: Final = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)
_SUBJECT: Final = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GatewayError(Exception):
    """An HTTP status, and the reason that goes into `x-nats-api-gateway-error`."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _User:
    """One NATS user's connection, made when its token is first used."""

    def __init__(self, servers: str, creds: str) -> None:
        self._servers = servers
        self._creds = creds
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    async def request(self, subject: str, payload: bytes, headers: dict[str, str], timeout_s: float) -> Msg:
        client = await self._connected()
        request = asyncio.ensure_future(client.request(subject, payload, timeout=timeout_s, headers=headers or None))
        try:
            await self._unless_forbidden(subject, request)
        except nats.errors.NoRespondersError:
            raise GatewayError(503, f"no responders for {subject}") from None
        except nats.errors.TimeoutError:
            raise GatewayError(504, f"no reply within {timeout_s * 1000:g} ms") from None
        return request.result()

    async def publish(self, subject: str, payload: bytes, reply: str, headers: dict[str, str]) -> None:
        client = await self._connected()

        async def publish() -> None:
            await client.publish(subject, payload, reply=reply, headers=headers or None)
            await roundtrip(client)  # a refusal comes before its end

        await self._unless_forbidden(subject, asyncio.ensure_future(publish()))

    async def close(self) -> None:
        if self._client:
            await self._client.close()

    async def _unless_forbidden(self, subject: str, work: asyncio.Future[Msg] | asyncio.Future[None]) -> None:
        forbidden: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(subject.lower(), set()).add(forbidden)
        try:
            await asyncio.wait({work, forbidden}, return_when=asyncio.FIRST_COMPLETED)
            if forbidden.done():
                raise GatewayError(403, f"not permitted to publish to {subject}")
            await work
        except nats.errors.MaxPayloadError:
            raise GatewayError(413, "payload too large") from None
        finally:
            work.cancel()
            waiting = self._waiting[subject.lower()]
            waiting.discard(forbidden)
            if not waiting:
                del self._waiting[subject.lower()]

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                client = Client()
                try:
                    await client.connect(
                        self._servers,
                        name="http-gateway",
                        user_credentials=RawCredentials(self._creds),
                        error_cb=self._on_error,
                        max_reconnect_attempts=1,
                        reconnect_time_wait=0,
                    )
                except (nats.errors.Error, OSError) as error:
                    raise GatewayError(503, f"NATS cannot be reached: {error}") from None
                self._client = client
            return self._client

    async def _on_error(self, error: Exception) -> None:
        violation = _VIOLATION.search(str(error))
        for forbidden in self._waiting.get(violation[1].lower(), ()) if violation else ():
            if not forbidden.done():
                forbidden.set_result(None)


class _Gateway:
    def __init__(self, users: Mapping[str, _User]) -> None:
        self._users = users

    async def request(self, http: web.Request) -> web.Response:
        user, subject = self._user(http), _subject(http)
        reply = await user.request(subject, await http.read(), _headers(http), _timeout_s(http))
        if "application/json" not in http.headers.get("Accept", ""):
            return web.Response(body=reply.data, headers=_reply_headers(reply), content_type="text/plain")
        body = {
            "subject": reply.subject,
            "reply": reply.reply,
            "header": {name: [value] for name, value in (reply.headers or {}).items()},
            "data": base64.b64encode(reply.data).decode(),
        }
        return web.json_response(body, headers=_reply_headers(reply))

    async def publish(self, http: web.Request) -> web.Response:
        user, subject = self._user(http), _subject(http)
        await user.publish(subject, await http.read(), http.query.get("reply", ""), _headers(http))
        return web.Response(status=200)

    def _user(self, http: web.Request) -> _User:
        token = http.headers.get("Authorization", "").removeprefix("Bearer").strip()
        if not token:
            raise GatewayError(401, "no token; send `Authorization: <token>`")
        user = self._users.get(token)
        if user is None:
            raise GatewayError(401, "unknown token")
        return user


def _subject(http: web.Request) -> str:
    subject = http.match_info["subject"]
    if not _SUBJECT.fullmatch(subject):
        raise GatewayError(400, "not a subject to publish to")
    return subject


def _timeout_s(http: web.Request) -> float:
    given = http.query.get("timeout", str(DEFAULT_TIMEOUT_MS))
    if not given.isascii() or not given.isdigit() or not 0 < int(given) <= MAX_TIMEOUT_MS:
        raise GatewayError(400, f"timeout must be milliseconds, 1 to {MAX_TIMEOUT_MS}")
    return int(given) / 1000


def _headers(http: web.Request) -> dict[str, str]:
    prefix = HEADER_PREFIX.lower()
    return {name[len(prefix) :]: value for name, value in http.headers.items() if name.lower().startswith(prefix)}


def _reply_headers(reply: Msg) -> dict[str, str]:
    return {HEADER_PREFIX + name: value for name, value in (reply.headers or {}).items()}


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GatewayError as error:
        return web.Response(status=error.status, headers={ERROR_HEADER: str(error)})
    except web.HTTPRequestEntityTooLarge:
        return web.Response(status=413, headers={ERROR_HEADER: "payload too large"})
    except nats.errors.Error as error:
        return web.Response(status=503, headers={ERROR_HEADER: str(error)})


@asynccontextmanager
async def gateway(port: int, servers: str, tokens: Mapping[str, str]) -> AsyncIterator[int]:
    """Serve on `port` (0: any free one) and yield it. `tokens` maps a token to the text of its user's `.creds`."""
    users = {token: _User(servers, creds) for token, creds in tokens.items()}
    handlers = _Gateway(users)
    app = web.Application(middlewares=[_errors], client_max_size=1024 * 1024 + 1)
    app.add_routes(
        [
            web.post("/v1/nats/subjects/{subject}", handlers.request),
            web.put("/v1/nats/subjects/{subject}", handlers.publish),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        for user in users.values():
            await user.close()
