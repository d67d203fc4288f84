"""Serve the live page over HTTP on loopback: a load with controls, charts and tasks.

Only this machine can reach it, and only under its own name, against DNS rebinding. Only the page itself or a program
may change anything: a browser sends the origin of a request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import mix_text, parse_mix
from benchmark.load.totals import Second
from benchmark.load.transport import connected
from benchmark.plan import Plan
from benchmark.web.live import Controls, Live
from benchmark.web.tasks import TaskLine, Tasks
from service.runtime.cancel import cancel

HOST: Final = "127.0.0.1"
MAX_RATE: Final = 1_000_000
MAX_PROCESSES: Final = 64
HISTORY_S: Final = 120
PAGE: Final = Path(__file__).parent / "page"
UPLOT: Final = Path(__file__).parents[1] / "node_modules" / "uplot" / "dist"
FILES: Final = {
    "/": PAGE / "index.html",
    "/page.js": PAGE / "page.js",
    "/page.css": PAGE / "page.css",
    "/uplot.js": UPLOT / "uPlot.iife.min.js",
    "/uplot.css": UPLOT / "uPlot.min.css",
}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

UNREAD: Final = 100
"""Most states that wait for a tab that does not read; the oldest are dropped first."""


class Page:
    """The state that the page and scripts receive each second."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_S)
        self._watchers: set[asyncio.Queue[dict[str, Any]]] = set()
        self._tasks: list[TaskLine] = []

    def status(self) -> dict[str, Any]:
        live, controls = self._live, self._live.controls
        return {
            "running": live.running, "rate": controls.rate, "mix": mix_text(controls.mix), "poisson": controls.poisson,
            "processes": live.processes, "automatic": not controls.processes, "note": live.note,
            "in_flight": live.totals.in_flight, "errors": dict(live.errors), "sent": live.totals.sent,
            "replies": live.totals.replies, "tasks": [asdict(task) for task in self._tasks],
            "second": self._history[-1]["second"] if self._history and live.running else None,
        }  # fmt: skip

    async def follow_seconds(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for second in self._live.seconds():
                await self._live.judge(second)
                self._history.append({"second": self._line(second)})
                self.tell()

    async def follow_tasks(self, tasks: Tasks) -> None:
        while True:
            self._tasks = await tasks.lines()
            self.tell()
            await asyncio.sleep(0.5)

    def tell(self) -> None:
        for watcher in self._watchers:
            if watcher.full():
                watcher.get_nowait()
            watcher.put_nowait(self.status())

    def _line(self, second: Second) -> dict[str, Any]:
        return {
            "at_s": second.at_s, "target": self._live.target_rate, "sent": second.sent,
            "answered": second.replies, "errors": second.errors.total(), "mean_ms": second.mean_ms,
            "p50_ms": second.p50_ms, "p95_ms": second.p95_ms, "p99_ms": second.p99_ms,
        }  # fmt: skip

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **HEADERS})
        await response.prepare(request)
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue(UNREAD)
        told.put_nowait(self.status() | {"history": [each["second"] for each in self._history]})
        self._watchers.add(told)
        try:
            while True:
                await response.write(b"data: " + orjson.dumps(await told.get()) + b"\n\n")
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            self._watchers.discard(told)

    def collect(self) -> list[Metric]:
        """Return the metrics for Prometheus."""
        live = self._live
        errors = CounterMetricFamily("load_errors", "Requests without a correct reply.", labels=["kind"])
        for kind, count in live.errors.items():
            errors.add_metric([kind], count)
        return [
            GaugeMetricFamily("load_target_rate", "Target rate in requests/s.", live.target_rate),
            CounterMetricFamily("load_sent", "Requests sent.", live.totals.sent),
            CounterMetricFamily("load_replies", "Correct replies.", live.totals.replies),
            GaugeMetricFamily("load_in_flight", "Requests in flight.", live.totals.in_flight),
            GaugeMetricFamily("load_processes", "Generator processes.", live.processes),
            errors,
        ]


def application(live: Live, page: Page) -> web.Application:
    app = web.Application(middlewares=[_guarded])

    async def start(request: web.Request) -> web.Response:
        try:
            await live.start(_controls(request, live.controls))
        except BenchmarkError as error:
            return web.json_response({"error": str(error)}, status=400)
        page.tell()
        return web.json_response(page.status())

    async def stop(_: web.Request) -> web.Response:
        await live.stop()
        page.tell()
        return web.json_response(page.status())

    async def status(_: web.Request) -> web.Response:
        return web.json_response(page.status())

    async def metrics(_: web.Request) -> web.Response:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(page)
        return web.Response(body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def file(request: web.Request) -> web.FileResponse:
        return web.FileResponse(FILES[request.path])

    app.router.add_post("/start", start)
    app.router.add_post("/stop", stop)
    app.router.add_get("/status", status)
    app.router.add_get("/events", page.events)
    app.router.add_get("/metrics", metrics)
    for path in FILES:
        app.router.add_get(path, file)
    return app


@web.middleware
async def _guarded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    transport = request.transport
    port = transport.get_extra_info("sockname")[1] if transport else 0
    if request.host not in {f"{HOST}:{port}", f"localhost:{port}"}:
        return web.json_response({"error": f"this page is http://{HOST}:{port}, under no other name"}, status=421)
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
    if request.method != "GET" and (origin not in {None, f"http://{request.host}"} or site == "cross-site"):
        return web.json_response({"error": "another origin's page may not do this"}, status=403)
    response = await handler(request)
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


def _controls(request: web.Request, now: Controls) -> Controls:
    """Parse the query; settings that it omits stay unchanged.

    Raises `BenchmarkError` if it is invalid.
    """
    query = request.query
    strange = sorted(query.keys() - {"rate", "mix", "poisson", "processes"})
    if strange:
        raise BenchmarkError(f"{strange[0]}: there are rate, mix, poisson, processes")
    try:
        rate = float(query.get("rate", now.rate))
        processes = int(query.get("processes", now.processes))
        poisson = {"true": True, "false": False}[query.get("poisson", str(now.poisson).lower())]
    except (ValueError, KeyError):
        raise BenchmarkError("rate and processes are numbers, poisson is true or false") from None
    if not 1 <= rate <= MAX_RATE:
        raise BenchmarkError(f"rate must be 1 to {MAX_RATE:,}")
    if not 0 <= processes <= MAX_PROCESSES:
        raise BenchmarkError(f"processes must be 0 (automatic) to {MAX_PROCESSES}")
    return Controls(rate, parse_mix(query["mix"]) if "mix" in query else now.mix, poisson, processes)


@asynccontextmanager
async def serving(plan: Plan, port: int) -> AsyncIterator[str]:
    """Serve the page; yield its address.

    Raises `BenchmarkError` if the port is taken, uPlot is not installed, or NATS cannot be reached.
    """
    missing = [path for path in FILES.values() if not path.is_file()]
    if missing:
        raise BenchmarkError(f"{missing[0].name} is not installed; run `make setup`")
    async with AsyncExitStack() as stack:
        live = Live(plan)
        page = Page(live)
        following = [asyncio.create_task(page.follow_seconds())]
        if plan.nats:
            tasks = Tasks(await stack.enter_async_context(connected(plan.nats)))
            following.append(asyncio.create_task(page.follow_tasks(tasks)))
        runner = web.AppRunner(application(live, page), shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)

        def failed(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()):
                live.note = (
                    f"the page is not kept up to date any more: {str(error) or type(error).__name__}; start it again"
                )
                page.tell()

        for task in following:
            task.add_done_callback(failed)
        site = web.TCPSite(runner, HOST, port)
        try:
            await site.start()
            yield f"http://{HOST}:{runner.addresses[0][1]}"
        except OSError as error:
            raise BenchmarkError(f"port {port} cannot be taken ({error.strerror}); give another --port") from None
        finally:
            await live.stop()
            await cancel(*following)
