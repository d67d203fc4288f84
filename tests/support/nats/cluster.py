"""Plain nats-servers in a cluster that a test may kill and add, and each usual way to connect to them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trustme

from local.process import Child, accepts, claim_port, running
from local.servers.nats_server import binary

_TLS: Final = 'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.pem" }}'


@dataclass(frozen=True)
class Way:
    """How a client reaches a server: a URL, and the server's configuration for it."""

    url: str
    config: str = ""


WAYS: Final = {
    "password": Way("nats://me:p%40ss%3A@127.0.0.1:{port}", 'authorization {{ user: me, password: "p@ss:" }}'),
    "token": Way("nats://t%2Fken@127.0.0.1:{port}", 'authorization {{ token: "t/ken" }}'),
    "TLS by name": Way("tls://localhost:{port}", _TLS),
    "ws": Way("ws://127.0.0.1:{web}", 'websocket {{ listen: "127.0.0.1:{web}", no_tls: true }}'),
    "wss": Way("wss://localhost:{web}", f'websocket {{{{ listen: "127.0.0.1:{{web}}"\n{_TLS} }}}}'),
}


class PlainCluster:
    """Servers without accounts. `ca.pem` in the folder signed their certificate, which is for `localhost`."""

    def __init__(self, folder: Path, way: Way) -> None:
        self._folder = folder
        self._way = way
        self._running: dict[int, AsyncExitStack] = {}
        self._children: dict[int, Child] = {}
        self._configs: dict[int, tuple[Path, int]] = {}
        self._route_ports: list[int] = []
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")

    async def add(self) -> tuple[int, str]:
        """Start one more server. Return its client port and its URL."""
        port, web, route = (claim_port(0, "") for _ in range(3))
        name = f"node-{len(self._route_ports)}"
        self._route_ports.append(route)  # a server alone has itself: JetStream in a cluster starts with routes
        routes = ", ".join(f'"nats://127.0.0.1:{other}"' for other in self._route_ports)
        config = self._folder / f"{name}.conf"
        config.write_text(
            f'server_name: {name}\nlisten: "127.0.0.1:{port}"\njetstream {{ store_dir: "{self._folder}/{name}" }}\n'
            f'cluster {{ name: plain, listen: "127.0.0.1:{route}", routes: [{routes}] }}\n'
            + self._way.config.format(web=web, folder=self._folder)
        )
        reached_at = web if "{web}" in self._way.url else port
        self._configs[reached_at] = config, port
        await self.start(reached_at)
        return reached_at, self._way.url.format(port=port, web=web)

    async def start(self, reached_at: int) -> None:
        """Start a server that was added, and perhaps killed since."""
        config, port = self._configs[reached_at]
        stack = AsyncExitStack()
        command = [binary(), "-c", str(config)]
        child = await stack.enter_async_context(running(config.stem, command, config.with_suffix(".log")))
        await child.until(lambda: accepts(port))
        self._running[reached_at], self._children[reached_at] = stack, child

    async def kill(self, reached_at: int) -> None:
        self._children[reached_at].signal(signal.SIGKILL)
        await self._running.pop(reached_at).aclose()

    async def stop(self) -> None:
        for stack in self._running.values():
            await stack.aclose()


@asynccontextmanager
async def plain_cluster(folder: Path, way: Way) -> AsyncIterator[PlainCluster]:
    cluster = PlainCluster(folder, way)
    try:
        yield cluster
    finally:
        await cluster.stop()
