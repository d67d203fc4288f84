"""The tasks' credentials, issued and made void by the control plane's own code."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from control_plane.auth.creds import Creds
from control_plane.desired import SERVICE
from control_plane.files import Files
from control_plane.reconcile import rotation
from control_plane.self_hosted.provider import SelfHosted, connected
from tests.nemesis.nodes import Nodes
from tests.support.world import World, eventually


class Credentials:
    """Those of the user `service`. Change them only while every server runs and none is cut off."""

    def __init__(self, world: World, nodes: Nodes, files: Files) -> None:
        self._account = world.account.public
        self._nodes = nodes
        self._files = files

    async def first(self) -> str:
        async with self._provider() as provider:
            await provider.put_user(self._account, SERVICE)
            self._files.write_creds(SERVICE.name, await provider.creds(self._account, SERVICE.name))
        return encoded(self._current())

    async def new(self, *, keep_old: bool) -> tuple[str, Callable[[], Awaitable[None]]]:
        """Return new ones, and what makes the old ones void; unless these are kept, they are void already."""
        old = Creds.parse(self._current()).key.public

        async def void() -> None:
            if keep_old:
                async with self._provider() as provider:
                    await provider.revoke(self._account, old)

        async with self._provider() as provider:
            work_on = rotation.issue if keep_old else rotation.rotate
            async for _ in work_on(provider, self._account, SERVICE, self._files):
                pass
        return encoded(self._current()), void

    def _current(self) -> str:
        return self._files.creds(SERVICE.name) or ""

    @asynccontextmanager
    async def _provider(self) -> AsyncIterator[SelfHosted]:
        await eventually(self._nodes.are_joined, within_s=30, what="servers that reach each other")
        servers = self._nodes.servers
        async with connected(self._nodes.urls, servers.system_creds) as system:
            yield SelfHosted(servers.nats_url, system, servers.operator, servers.system.public)


def encoded(creds: str) -> str:
    """Return credentials as the variable `NATS_CREDENTIALS` has them."""
    return base64.b64encode(creds.encode()).decode()
