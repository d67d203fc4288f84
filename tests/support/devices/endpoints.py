"""A presence that a test fills in, in place of the bucket; and the endpoints over it on a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import orjson
from nats.aio.client import Client
from nats.micro.service import ServiceConfig

from service.contracts import devices as contract
from service.nats.client import NatsClient
from service.nats.connection import roundtrip
from service.requests.errors import Unavailable
from service.requests.micro import ConcurrentService, Endpoint
from service.runtime.telemetry.tracing import NoTracing
from tests.support.nats.plain import plain_server


@dataclass(frozen=True)
class Record:
    device: str
    state: str = "online"
    since: float = 1_700_000_000.25


@dataclass
class Presence:
    records: list[Record] = field(default_factory=list)
    fails: Exception | None = None
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    async def get(self, device: str) -> Record | None:
        await self._answer()
        return next((record for record in self.records if record.device == device), None)

    async def list(self, state: str, after: str, limit: int) -> Sequence[Record]:
        self.asked.append((state, after, limit))
        await self._answer()
        found = sorted(self.records, key=lambda record: record.device)
        return [record for record in found if record.device > after and state in {"", record.state}][:limit]

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails


UNAVAILABLE = Unavailable("the bucket did not answer; try again")


@asynccontextmanager
async def answering(folder: Path, *endpoints: Endpoint) -> AsyncIterator[Client]:
    """Serve the endpoints; yield a client."""
    config = ServiceConfig(name=contract.SERVICE_NAME, version="1.2.3", description="d")
    async with plain_server(folder) as port:
        url = f"nats://127.0.0.1:{port}"
        server = NatsClient(lambda _: None, lambda: None)
        await server.connect(url)
        service = ConcurrentService(server, config, endpoints, max_in_flight=100, tracing=NoTracing())
        await service.serve()
        await roundtrip(server)
        client = await nats.connect(url)
        try:
            yield client
        finally:
            await client.close()
            await service.drain()
            await server.close()


async def ask(client: Client, subject: str, body: object) -> tuple[str, Any]:
    """Return code and description of an error, or OK, and the reply's body."""
    payload = body if isinstance(body, bytes) else orjson.dumps(body)
    reply = await client.request(subject, payload, timeout=10)
    headers = reply.headers or {}
    code = f"{headers.get('Nats-Service-Error-Code', '')} {headers.get('Nats-Service-Error', 'OK')}".strip()
    return code, orjson.loads(reply.data)
