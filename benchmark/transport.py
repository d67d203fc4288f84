"""How a request travels: over NATS, or through the HTTP gateway. Every reply is checked here for its shape."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import aiohttp
import nats.errors
import orjson
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER

from benchmark.errors import BenchmarkError
from benchmark.job import GatewayTarget, NatsTarget, Target
from service.runtime.connection import roundtrip
from service.runtime.nats_client import NatsClient

GATEWAY_ERROR: Final = "x-nats-api-gateway-error"
NO_RESPONDERS: Final = "no responders"
NOT_SENT: Final = "not sent"
WRONG_SHAPE: Final = "wrong shape"
CONNECT_S: Final = 5

OnReply = Callable[[int, int | None, str | None], Awaitable[None]]
"""Called once for each request that is answered: its number, and its balance or the kind of its error."""


class Transport(Protocol):
    """A connection over which requests are sent; replies come to the callback that it was opened with."""

    async def send(self, number: int, payload: bytes) -> None:
        """Send request `number`. What goes wrong with it comes to the callback too."""


@asynccontextmanager
async def opened(target: Target, subject: str, timeout_s: float, on_reply: OnReply) -> AsyncIterator[Transport]:
    """A transport to `target`.

    Raises `BenchmarkError` when there is no connection.
    """
    if isinstance(target, NatsTarget):
        async with connected(target) as client:
            transport = OverNats(client, subject, on_reply)
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
            overhttp = OverHttp(http, target, subject, timeout_s, on_reply)
            try:
                yield overhttp
            finally:
                await overhttp.close()


class OverNats:
    """Requests with an inbox of our own, so that neither a future nor a timer is spent on each."""

    def __init__(self, client: Client, subject: str, on_reply: OnReply) -> None:
        self.inbox = client.new_inbox()
        self._client = client
        self._subject = subject
        self._on_reply = on_reply

    async def send(self, number: int, payload: bytes) -> None:
        # While the server is away, what its client cannot hold for it stays in flight here, until its time-out.
        with contextlib.suppress(nats.errors.OutboundBufferLimitError):
            await self._client.publish(self._subject, payload, reply=f"{self.inbox}.{number}")

    async def on_message(self, msg: Msg) -> None:
        number = int(msg.subject.rpartition(".")[2])
        headers = msg.headers
        if headers is None:
            balance = balance_in(msg.data)
            await self._on_reply(number, balance, None if balance is not None else WRONG_SHAPE)
        else:
            await self._on_reply(number, None, _kind(headers, msg.data))


class OverHttp:
    """Requests through the gateway, each on a kept-alive connection of its own."""

    def __init__(
        self, http: aiohttp.ClientSession, target: GatewayTarget, subject: str, timeout_s: float, on_reply: OnReply
    ) -> None:
        self._http = http
        self._url = f"{target.url.rstrip('/')}/v1/nats/subjects/{subject}?timeout={round(timeout_s * 1000)}"
        self._on_reply = on_reply
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, number: int, payload: bytes) -> None:
        task = asyncio.create_task(self._ask(number, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, number: int, payload: bytes) -> None:
        try:
            async with self._http.post(self._url, data=payload) as response:
                body = await response.read()
        except TimeoutError:
            return  # it stays in flight, and the load's own clock gives it up
        except aiohttp.ClientError:
            await self._on_reply(number, None, NOT_SENT)
            return
        headers = response.headers
        if response.status != 200:
            reason = headers.get(GATEWAY_ERROR, response.reason or "")
            kind = NO_RESPONDERS if "no responders" in reason else f"HTTP {response.status} {reason}"
            await self._on_reply(number, None, kind)
        elif f"NatsH-{ERROR_CODE_HEADER}" in headers:
            code, text = headers[f"NatsH-{ERROR_CODE_HEADER}"], headers.get(f"NatsH-{ERROR_HEADER}", "")
            await self._on_reply(number, None, f"{code} {text}")
        else:
            balance = balance_in(body)
            await self._on_reply(number, balance, None if balance is not None else WRONG_SHAPE)


def balance_in(reply: bytes) -> int | None:
    """The balance in a reply of the right shape, which is an integer under `balance` and nothing else; else None."""
    try:
        body = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return None
    if type(body) is dict and len(body) == 1 and type(body.get("balance")) is int:
        balance: int = body["balance"]
        return balance
    return None


def _kind(headers: Mapping[str, str], data: bytes) -> str:
    if ERROR_CODE_HEADER in headers:
        return f"{headers[ERROR_CODE_HEADER]} {headers.get(ERROR_HEADER, '')}"
    if not data and headers.get("Status") == "503":
        return NO_RESPONDERS
    return WRONG_SHAPE


@asynccontextmanager
async def connected(target: NatsTarget) -> AsyncIterator[Client]:
    """A connection that reconnects by itself once it was there.

    Raises `BenchmarkError` with the server's reason when it cannot connect.
    """
    problems: list[Exception] = []

    async def note(error: Exception) -> None:
        problems.append(error)

    client = NatsClient(lambda _: None, lambda: None)
    connecting = asyncio.create_task(client.connect(target.servers, error_cb=note, **_options(target)))
    await asyncio.wait({connecting}, timeout=CONNECT_S)
    connecting.cancel()
    outcome = (await asyncio.gather(connecting, return_exceptions=True))[0]
    try:
        if isinstance(outcome, BaseException):
            reason = str(problems[-1] if problems else outcome).removeprefix("nats: ").strip("'") or "no answer"
            raise BenchmarkError(f"no connection to {', '.join(target.servers)} ({reason}); is it running?")
        yield client
    finally:
        await client.close()


def _options(target: NatsTarget) -> dict[str, Any]:
    options: dict[str, Any] = {
        "name": "customer-balance-benchmark",
        "inbox_prefix": target.inbox_prefix,
        "connect_timeout": 2,
        "reconnect_time_wait": 0.2,
        "max_reconnect_attempts": -1,
        "skip_subject_validation": True,
        "user_credentials": RawCredentials(target.creds) if target.creds else None,
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
