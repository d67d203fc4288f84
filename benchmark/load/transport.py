"""Send requests over NATS or through the HTTP gateway, and classify errors."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

import aiohttp
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import WRONG_SHAPE
from benchmark.load.job import GatewayTarget, NatsTarget, Target
from service.nats import connect
from service.nats.client import NatsClient, roundtrip
from service.nats.connect import NotConnectedError, is_refusal

GATEWAY_ERROR: Final = "x-nats-api-gateway-error"
NO_RESPONDERS: Final = "no responders"
NOT_SENT: Final = "not sent"
CONNECT_S: Final = 5
_DENIED: Final = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)

OnReply = Callable[[int, bytes, str | None], Awaitable[None]]
"""Called once per answered request with its number, the reply, and the kind of error or None."""


class Transport(Protocol):
    """Sends requests; replies go to the callback given to `opened`."""

    async def send(self, number: int, subject: str, payload: bytes) -> None:
        """Send request `number`. A failure goes to the callback too."""


@asynccontextmanager
async def opened(
    target: Target, timeout_s: float, on_reply: OnReply, on_denied: Callable[[str], None]
) -> AsyncIterator[Transport]:
    """Yield a transport to `target`. Calls `on_denied` if these credentials may not send such a request.

    Raises `BenchmarkError` if it cannot connect.
    """
    if isinstance(target, NatsTarget):
        async with connected(target, on_denied) as client:
            transport = OverNats(client, on_reply)
            await client.subscribe(f"{transport.inbox}.*", cb=transport.on_message)
            await roundtrip(client)
            yield transport
    else:
        session = aiohttp.ClientSession(
            headers={"Authorization": target.token, "Accept": "text/plain", "Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )
        async with session as http:
            await _reached(http, target)
            overhttp = OverHttp(http, target, timeout_s, on_reply)
            try:
                yield overhttp
            finally:
                await overhttp.close()


class OverNats:
    """Sends requests with one shared inbox, which saves a future and a timer per request."""

    def __init__(self, client: Client, on_reply: OnReply) -> None:
        self.inbox = client.new_inbox()
        self._client = client
        self._on_reply = on_reply

    async def send(self, number: int, subject: str, payload: bytes) -> None:
        # While the server is unavailable and nats-py's buffer is full, the request stays in flight until its timeout.
        with contextlib.suppress(nats.errors.OutboundBufferLimitError):
            await self._client.publish(subject, payload, reply=f"{self.inbox}.{number}")

    async def on_message(self, msg: Msg) -> None:
        number = int(msg.subject.rpartition(".")[2])
        await self._on_reply(number, msg.data, None if msg.headers is None else _kind(msg.headers, msg.data))


class OverHttp:
    """Sends requests through the gateway, each on its own kept-alive connection."""

    def __init__(self, http: aiohttp.ClientSession, target: GatewayTarget, timeout_s: float, on_reply: OnReply) -> None:
        self._http = http
        self._subjects = f"{target.url.rstrip('/')}/v1/nats/subjects/"
        self._query = f"?timeout={round(timeout_s * 1000)}"
        self._on_reply = on_reply
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, number: int, subject: str, payload: bytes) -> None:
        task = asyncio.create_task(self._ask(number, self._subjects + subject + self._query, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, number: int, url: str, payload: bytes) -> None:
        try:
            async with self._http.post(url, data=payload) as response:
                body = await response.read()
        except TimeoutError:
            return  # it stays in flight until the load counts it as a timeout
        except aiohttp.ClientError:
            await self._on_reply(number, b"", NOT_SENT)
            return
        headers = response.headers
        if response.status != 200:
            reason = headers.get(GATEWAY_ERROR, response.reason or "")
            kind = NO_RESPONDERS if "no responders" in reason else f"HTTP {response.status} {reason}"
            await self._on_reply(number, b"", kind)
        elif f"NatsH-{ERROR_CODE_HEADER}" in headers:
            code, text = headers[f"NatsH-{ERROR_CODE_HEADER}"], headers.get(f"NatsH-{ERROR_HEADER}", "")
            await self._on_reply(number, b"", f"{code} {text}")
        else:
            await self._on_reply(number, body, None)


async def _reached(http: aiohttp.ClientSession, target: GatewayTarget) -> None:
    """Raise `BenchmarkError` if no HTTP server answers there."""
    try:
        async with http.get(target.url, timeout=aiohttp.ClientTimeout(total=CONNECT_S)):
            pass
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or "no answer"
        raise BenchmarkError(f"no connection to {target.url} ({reason}); is the gateway running?") from None


def _kind(headers: Mapping[str, str], data: bytes) -> str:
    if ERROR_CODE_HEADER in headers:
        return f"{headers[ERROR_CODE_HEADER]} {headers.get(ERROR_HEADER, '')}"
    if not data and headers.get("Status") == "503":
        return NO_RESPONDERS
    return WRONG_SHAPE


def connected(
    target: NatsTarget, on_denied: Callable[[str], None] = lambda _: None
) -> AbstractAsyncContextManager[NatsClient]:
    """Connect, and reconnect from then on. Calls `on_denied` if the user may not publish.

    Raises `BenchmarkError` with the server's reason if it cannot connect.
    """

    async def note(error: Exception) -> None:
        if denied := _DENIED.search(str(error)):
            on_denied(f"these credentials may not send {denied[1]}; give those of a user that may, or another --mix")

    return connect.connected(
        target.servers, target.creds, _why_not, within_s=CONNECT_S, reconnects=True, on_error=note, **_options(target)
    )


def _why_not(error: NotConnectedError) -> BenchmarkError:
    if is_refusal(error.cause):
        advice = "give its own with --creds or --context"
        return BenchmarkError(f"{error.servers} refuses these credentials ({error}); {advice}")
    return BenchmarkError(f"no connection to {error.servers} ({error}); is it running?")


def _options(target: NatsTarget) -> dict[str, Any]:
    options: dict[str, Any] = {
        "name": "customer-balance-benchmark",
        "inbox_prefix": target.inbox_prefix,
        "skip_subject_validation": True,
        "nkeys_seed_str": target.nkey_seed,
        "user": target.user,
        "password": target.password,
        "token": target.token,
    }
    if target.ca_file or target.cert_file:
        tls = ssl.create_default_context(cafile=target.ca_file)
        if target.cert_file:
            tls.load_cert_chain(target.cert_file, target.key_file)
        options["tls"] = tls
    return {name: value for name, value in options.items() if value is not None}
