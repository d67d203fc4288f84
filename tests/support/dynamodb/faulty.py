"""A proxy in front of the DynamoDB engine, or of SQS, that fails or changes calls as a test asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web

Call = dict[str, Any]
Fault = Callable[[str, Call], Awaitable[web.Response | None] | web.Response | None]
"""Take a call's action and body; return an answer instead of DynamoDB's, or None to pass it on (perhaps changed)."""


@dataclass
class FaultyDynamoDB:
    env: Mapping[str, str]
    runner: web.AppRunner
    fault: Fault | None = None
    calls: list[tuple[str, Call]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Refuse new connections, and end the existing ones."""
        port = self.runner.addresses[0][1]
        for site in list(self.runner.sites):
            await site.stop()
        assert self.runner.server
        for connection in self.runner.server.connections:
            if connection.transport:
                connection.transport.abort()
        yield
        await web.TCPSite(self.runner, "127.0.0.1", port, reuse_address=True).start()


def refusal(kind: str, status: int = 400) -> web.Response:
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{kind}", "message": "as the test wants it"}
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/x-amz-json-1.0")


def answer(body: Any) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/x-amz-json-1.0")


@asynccontextmanager
async def faulty_dynamodb(
    env: Mapping[str, str], variable: str = "AWS_ENDPOINT_URL_DYNAMODB"
) -> AsyncIterator[FaultyDynamoDB]:
    """`variable` names the service: SQS speaks the same protocol."""
    target = env[variable]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as upstream:

        async def handle(request: web.Request) -> web.StreamResponse:
            action = request.headers["X-Amz-Target"].rpartition(".")[2]
            call = orjson.loads(await request.read())
            proxy.calls.append((action, call))
            proxy.authorizations.append(request.headers["Authorization"])
            if proxy.fault is not None:
                outcome = proxy.fault(action, call)
                instead = await outcome if isinstance(outcome, Awaitable) else outcome
                if instead is not None:
                    return instead
            headers = {name: request.headers[name] for name in ("X-Amz-Target", "X-Amz-Date", "Authorization")}
            headers["Content-Type"] = "application/x-amz-json-1.0"
            async with upstream.post(target, data=orjson.dumps(call), headers=headers) as response:
                return web.Response(status=response.status, body=await response.read())

        runner = web.AppRunner(_app(handle), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]
            proxy = FaultyDynamoDB({**env, variable: f"http://127.0.0.1:{port}"}, runner)
            yield proxy
        finally:
            await runner.cleanup()


def _app(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    app = web.Application()
    app.router.add_post("/", handle)
    return app


def stall(seconds: float) -> Fault:
    async def fault(_action: str, _call: Call) -> None:
        await asyncio.sleep(seconds)

    return fault
