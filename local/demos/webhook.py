"""A small HTTP server that takes the posts about outages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from local.process import claim_port


@dataclass
class Webhook:
    url: str
    posts: list[dict[str, Any]] = field(default_factory=list)

    def named(self, kind: str) -> list[str]:
        """Return every device in the posts so far; `kind` is `down` or `up`."""
        return [device for post in self.posts for device in post[kind]]


@asynccontextmanager
async def webhook() -> AsyncIterator[Webhook]:
    """Yield a server that answers every POST with 204 and keeps its body."""
    port = claim_port(0, "")
    found = Webhook(f"http://127.0.0.1:{port}/outages")

    async def take(request: web.Request) -> web.Response:
        found.posts.append(await request.json())
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/outages", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield found
    finally:
        await runner.cleanup()
