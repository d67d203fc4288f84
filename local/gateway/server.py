"""The part of Synadia's HTTP gateway that this system's users need: request/reply and publish over HTTP.

`POST /v1/nats/subjects/{subject}` is a request, `PUT` a publish; `NatsH-Name: value` travels as the NATS header
`Name`. A token acts as its NATS user: on a connection of that user's, with that user's permissions.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import nats.errors
from aiohttp import ClientPayloadError, web
from nats.aio.msg import Msg

from local.gateway.user import GatewayError, User

ERROR_HEADER: Final = "x-nats-api-gateway-error"
HEADER_PREFIX: Final = "NatsH-"
DEFAULT_TIMEOUT_MS: Final = 5_000
MAX_TIMEOUT_MS: Final = 60_000
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_SUBJECT_BYTES: Final = 1024
"""nats-server closes a connection whose control line exceeds 4,096 bytes; a line holds two subjects."""
CLOSE_S: Final = 2.0
_PART: Final = r'[^\s.*>"\\]+'
_SUBJECT: Final = re.compile(rf"{_PART}(\.{_PART})*")
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""https://www.rfc-editor.org/rfc/rfc9110#name-tokens"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Gateway:
    def __init__(self, users: Mapping[str, User]) -> None:
        self._users = users

    async def request(self, http: web.Request) -> web.Response:
        user, subject = self._user(http), _subject(http)
        reply = await user.request(subject, await http.read(), _headers(http), _timeout_s(http))
        if not _accepts_json(http):
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
        reply = http.query.get("reply", "")
        if reply:
            _check_subject(reply, "reply is not a subject")
        await user.publish(subject, await http.read(), reply, _headers(http))
        return web.Response(status=200)

    async def not_built(self, http: web.Request) -> web.Response:
        self._user(http)
        raise GatewayError(501, "event streams and key-value are not built into this local gateway")

    def _user(self, http: web.Request) -> User:
        given = http.headers.get("Authorization", "").strip()
        scheme, _, rest = given.partition(" ")
        token = rest.strip() if scheme.lower() == "bearer" else given
        if not token:
            raise GatewayError(401, "no token; send `Authorization: <token>`")
        user = self._users.get(token)
        if user is None:
            raise GatewayError(401, "unknown token")
        return user


def _subject(http: web.Request) -> str:
    subject = http.match_info["subject"]
    _check_subject(subject, "not a subject to publish to")
    return subject


def _check_subject(subject: str, problem: str) -> None:
    if not _SUBJECT.fullmatch(subject) or not subject.isprintable():
        raise GatewayError(400, problem)
    if len(subject.encode()) > MAX_SUBJECT_BYTES:
        raise GatewayError(400, f"{problem}: it has more than {MAX_SUBJECT_BYTES} bytes")


def _accepts_json(http: web.Request) -> bool:
    ranges = (part.partition(";") for part in http.headers.get("Accept", "").split(","))
    return any(
        name.strip().lower() == "application/json" and "q=0" not in rest.replace(" ", "").split(";")
        for name, _, rest in ranges
    )


def _timeout_s(http: web.Request) -> float:
    given = http.query.get("timeout", str(DEFAULT_TIMEOUT_MS))
    if not re.fullmatch(r"[0-9]{1,9}", given) or not 0 < int(given) <= MAX_TIMEOUT_MS:
        raise GatewayError(400, f"timeout must be milliseconds, 1 to {MAX_TIMEOUT_MS}")
    return int(given) / 1000


def _headers(http: web.Request) -> dict[str, str]:
    """Return the NATS headers of a request. Values of a repeated one are joined by commas, as in RFC 9110, 5.3."""
    prefix = HEADER_PREFIX.lower()
    found: dict[str, str] = {}
    for name, value in http.headers.items():
        if name.lower().startswith(prefix):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise GatewayError(400, f"header {name} is not UTF-8") from None
            short = name[len(prefix) :]
            if not short:
                raise GatewayError(400, f"header {name} has no name after {HEADER_PREFIX}")
            found[short] = f"{found[short]}, {value}" if short in found else value
    return found


def _reply_headers(reply: Msg) -> dict[str, str]:
    """Return those headers of the reply that HTTP can carry."""
    return {
        HEADER_PREFIX + name: value
        for name, value in (reply.headers or {}).items()
        if _FIELD_NAME.fullmatch(name) and value.isprintable() and value.isascii()
    }


@web.middleware
async def _cors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Allow calls from pages of any origin: the token permits a call, and a browser never adds that by itself.

    https://fetch.spec.whatwg.org/#http-cors-protocol
    """
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        response: web.StreamResponse = web.Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE"
        # A wildcard does not cover Authorization.
        asked = request.headers.get("Access-Control-Request-Headers", "")
        response.headers["Access-Control-Allow-Headers"] = asked or "Authorization"
        response.headers["Access-Control-Max-Age"] = "600"
    else:
        response = await handler(request)
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = "*"
    return response


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GatewayError as error:
        return _error(error.status, str(error))
    except web.HTTPRequestEntityTooLarge:
        return _error(413, "payload too large")
    except web.HTTPException as error:
        return _error(error.status, error.reason)
    except (ClientPayloadError, web.RequestPayloadError, ConnectionError):
        return _error(400, "the body ended early")
    except nats.errors.Error as error:
        return _error(503, str(error))


def _error(status: int, reason: str) -> web.Response:
    printable = "".join(character if character.isprintable() else "?" for character in reason)
    return web.Response(status=status, headers={ERROR_HEADER: printable})


@asynccontextmanager
async def gateway(port: int, servers: str, tokens: Mapping[str, str]) -> AsyncIterator[int]:
    """Serve on `port` (0: any free port) and yield it. `tokens` maps a token to the text of its user's `.creds`."""
    users = {token: User(servers, creds) for token, creds in tokens.items()}
    handlers = _Gateway(users)
    app = web.Application(middlewares=[_cors, _errors], client_max_size=MAX_BODY_BYTES + 1)
    app.add_routes(
        [
            web.post("/v1/nats/subjects/{subject}", handlers.request),
            web.put("/v1/nats/subjects/{subject}", handlers.publish),
            web.get("/v1/nats/subjects/{subject}", handlers.not_built),
            web.route("*", "/v1/kv/{rest:.*}", handlers.not_built),
            web.route("*", "/v1/kvm/{rest:.*}", handlers.not_built),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        for user in users.values():
            await user.close()
