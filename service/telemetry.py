"""Logs, metrics, health: what operators see of a task. The parts keep plain numbers; this reads them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson
import structlog
from aiohttp import web
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from service.errors import ServiceFault
from service.events import Events
from service.micro import LATENCY_BOUNDS_S, OUTCOMES, ConcurrentEndpoint
from service.settings import Settings
from service.table import BATCH_BOUNDS, CALL_BOUNDS_S, Table

log: Final = structlog.get_logger("service.telemetry")


def writes_json(settings: Settings) -> bool:
    return settings.log_format == "json" or (settings.log_format is None and not sys.stderr.isatty())


def configure_logs(settings: Settings) -> None:
    """Structured lines on standard error: JSON, or coloured on a terminal."""
    console = not writes_json(settings)
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dump)]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries' own records, from warnings up, in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[
        structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered,
    ]))  # fmt: skip
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _dump(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


class Metrics(Collector):
    """Prometheus metrics, computed from the parts' numbers when they are scraped."""

    def __init__(
        self, endpoint: ConcurrentEndpoint, table: Table, events: Events, reconnects: Callable[[], int]
    ) -> None:
        self._endpoint = endpoint
        self._table = table
        self._events = events
        self._reconnects = reconnects

    def collect(self) -> Iterator[Metric]:
        requests, table, events = self._endpoint.numbers, self._table.numbers, self._events.numbers
        outcomes = dict.fromkeys(OUTCOMES, 0) | requests.outcomes
        yield _labelled("balance_requests", "Requests answered, by outcome.", "outcome", outcomes)
        yield _histogram(
            "balance_request_seconds", "From receipt to reply, in seconds.",
            LATENCY_BOUNDS_S, requests.latency_counts, requests.processing_ns / 1e9,
        )  # fmt: skip
        yield GaugeMetricFamily("balance_requests_in_flight", "Requests being worked on.", self._endpoint.in_flight)
        yield CounterMetricFamily("balance_replies_lost", "Replies the connection did not take.", requests.replies_lost)
        yield _histogram(
            "balance_batch_keys", "Distinct keys in a BatchGetItem.",
            BATCH_BOUNDS, table.batch_counts, table.batch_keys,
        )  # fmt: skip
        yield _histogram(
            "balance_dynamodb_call_seconds", "One BatchGetItem call, in seconds.",
            CALL_BOUNDS_S, table.call_counts, table.call_seconds,
        )  # fmt: skip
        yield _labelled("balance_dynamodb_errors", "Calls that failed, by error.", "error", table.errors)
        yield CounterMetricFamily("balance_events_published", "Events the stream acknowledged.", events.published)
        yield CounterMetricFamily("balance_events_retried", "Events sent again.", events.retried)
        yield CounterMetricFamily("balance_events_dropped", "Events given up for want of room.", events.dropped)
        yield GaugeMetricFamily("balance_events_pending", "Events not yet acknowledged.", self._events.pending)
        stalled = float(self._events.stalled is not None)
        yield GaugeMetricFamily("balance_events_stalled", "1 while the stream takes none.", stalled)
        yield CounterMetricFamily("balance_nats_reconnects", "Reconnections to NATS.", self._reconnects())
        yield GaugeMetricFamily("balance_asyncio_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))


def _labelled(name: str, documentation: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _histogram(name: str, documentation: str, bounds: Sequence[float], counts: Sequence[int], total: float) -> Metric:
    buckets, so_far = [], 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        so_far += count
        buckets.append((bound, so_far))
    return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=total)


Ready = Callable[[], Awaitable[Mapping[str, str]]]
"""What is not ready, by name, and why; empty when all is."""

READY_CACHE_S: Final = 1.0


@asynccontextmanager
async def serve_health(port: int, ready: Ready, metrics: Metrics) -> AsyncIterator[int]:
    """`/healthz`, `/readyz` and `/metrics` on `port` (0: any free one); yields the port.

    Raises `ServiceFault` when the port is taken.
    """
    registry = CollectorRegistry()
    for collector in (metrics, PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    asked_s, problems = float("-inf"), dict[str, str]()

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        nonlocal asked_s, problems
        if time.monotonic() - asked_s > READY_CACHE_S:
            problems = dict(await ready())
            asked_s = time.monotonic()
        body = {"status": "not ready", "problems": problems} if problems else {"status": "ready"}
        return web.json_response(body, status=503 if problems else 200)

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "0.0.0.0", port)  # noqa: S104  the container's own address is not known here
        try:
            await site.start()
        except OSError as error:
            raise ServiceFault(
                f"HEALTH_PORT {port} cannot be used ({os.strerror(error.errno or 0)})", "set another"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
