"""`/healthz`, `/readyz` and `/metrics`, for any role."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from service.runtime.errors import ServiceError

READY_CACHE_S: Final = 1.0


class _Role(Collector):
    def __init__(self, metrics: Callable[[], Iterable[Metric]]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics()
        yield GaugeMetricFamily("balance_asyncio_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))


@asynccontextmanager
async def serve_health(
    host: str,
    port: int,
    problems: Callable[[], Awaitable[Mapping[str, str]]],
    remarks: Callable[[], Awaitable[Mapping[str, str]]],
    metrics: Callable[[], Iterable[Metric]],
    is_alive: Callable[[], bool],
) -> AsyncIterator[int]:
    """Serve on `port` (0: any free port); yield the port.

    Raise `ServiceError` if the port cannot be used. Answers of `problems` and `remarks` are cached for a second.
    """
    registry = CollectorRegistry()
    for collector in (_Role(metrics), PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    asked_s, found, noted = float("-inf"), dict[str, str](), dict[str, str]()

    async def healthz(_: web.Request) -> web.Response:
        if is_alive():
            return web.json_response({"status": "ok"})
        return web.json_response({"status": "dead"}, status=503)

    async def readyz(_: web.Request) -> web.Response:
        nonlocal asked_s, found, noted
        if time.monotonic() - asked_s > READY_CACHE_S:
            found = dict(await problems())
            noted = {} if found else dict(await remarks())
            asked_s = time.monotonic()
        ready = {"status": "ready", "remarks": noted} if noted else {"status": "ready"}
        body = {"status": "not ready", "problems": found} if found else ready
        return web.json_response(body, status=503 if found else 200)

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ServiceError(
                f"HEALTH_PORT {port} cannot be used ({os.strerror(error.errno or 0)})", "set another"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
