"""Concurrent request dispatch for ADR-32 services.

`nats.micro` awaits a handler before it takes the next message, so it serves one request at a time and its
numbers follow from that. Discovery, identity and the `$SRV` replies are its own; the endpoints are replaced
(docs/adr/0002-micro.md). A handler returns as soon as its request is on the way; the request stays in flight,
and in the statistics, until it is answered.

The wire format is ADR-32's: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import structlog
from nats.aio.msg import Msg
from nats.micro.service import EndpointInfo, EndpointStats, ServiceConfig, ServiceInfo, ServiceStats

from service.customer.contract import QUEUE_GROUP
from service.customer.credit import Credit
from service.customer.errors import ERRORS, BadRequest, InternalError, NotFound, RequestError
from service.customer.request import OK, REPLY_LOST, Request
from service.runtime.discovery import Discovery, is_inbox
from service.runtime.logs import Repeated
from service.runtime.metrics import Histogram
from service.runtime.nats_client import NatsClient
from service.runtime.tracing import NoTracing, Tracing

log: Final = structlog.get_logger("service.micro")
_failed: Final = Repeated(log, "request failed")

OUTCOMES: Final = (OK, REPLY_LOST, *(error.description for error in ERRORS))
ANSWERS: Final = frozenset({OK, NotFound.description})
"""Their latency is observed. A refusal takes microseconds, and would make an overloaded task look fast."""
LATENCY_BUCKETS: Final = (
    0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0,
)  # fmt: skip

Handler = Callable[[Request], Awaitable[None]]
"""Starts the work on a request and returns; a `RequestError` it raises becomes the reply."""


@dataclass(frozen=True)
class Endpoint:
    """What `$SRV.INFO` tells of an endpoint, and what answers its requests."""

    name: str
    subject: str
    handler: Handler
    description: str
    request_schema: Mapping[str, Any]
    response_schema: Mapping[str, Any]

    def info(self) -> EndpointInfo:
        metadata = {
            "description": self.description,
            "request_schema": orjson.dumps(self.request_schema).decode(),
            "response_schema": orjson.dumps(self.response_schema).decode(),
        }
        return EndpointInfo(name=self.name, subject=self.subject, queue_group=QUEUE_GROUP, metadata=metadata)


@dataclass(slots=True)
class RequestStats:
    """What an endpoint has done since it started. Plain numbers: they are written once a request."""

    received: int = 0
    finished: int = 0
    errors: int = 0
    last_error: str = ""
    processing_ns: int = 0
    replies_lost: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    latency_seconds: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))


class _Dispatch:
    """Takes one endpoint's requests, within the service's `max_in_flight`."""

    def __init__(self, service: ConcurrentService, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.stats = RequestStats()
        self._service = service
        self._log_requests = log.bind().is_enabled_for(logging.DEBUG)

    async def on_message(self, msg: Msg) -> None:
        service = self._service
        request = Request(service.nc, msg, service.tracing, self._finish)
        self.stats.received += 1
        service.credit.enter()
        try:
            if is_inbox(msg.reply):
                await self.endpoint.handler(request)
            else:
                await request.refuse(BadRequest("no inbox to reply to"))
        except RequestError as error:
            await request.refuse(error)
        except Exception as error:
            _failed.error(type(error).__name__, exc_info=error)
            await request.refuse(InternalError("internal error"))

    def _finish(self, request: Request, outcome: str, error: str) -> None:
        stats = self.stats
        elapsed_ns = time.perf_counter_ns() - request.received_ns
        stats.finished += 1
        stats.processing_ns += elapsed_ns
        stats.outcomes[outcome] += 1
        if outcome in ANSWERS:
            stats.latency_seconds.observe(elapsed_ns / 1e9)
        stats.replies_lost += request.reply_lost
        if error:
            stats.errors += 1
            stats.last_error = error
        if self._log_requests:
            log.debug("request", endpoint=self.endpoint.name, outcome=outcome, ms=elapsed_ns / 1e6)
        self._service.tracing.end(request.span, self.endpoint.name, outcome)  # type: ignore[arg-type]
        self._service.credit.leave()

    def to_stats(self) -> EndpointStats:
        stats = self.stats
        return EndpointStats(
            name=self.endpoint.name,
            subject=self.endpoint.subject,
            queue_group=QUEUE_GROUP,
            num_requests=stats.received,
            num_errors=stats.errors,
            last_error=stats.last_error,
            processing_time=stats.processing_ns,
            average_processing_time=stats.processing_ns // max(1, stats.finished),
            data={"in_flight": stats.received - stats.finished, **self._service.facts()},
        )


class ConcurrentService(Discovery):
    """`nats.micro`'s service (PING, INFO and STATS, each plain, by name and by id) over concurrent endpoints.

    All endpoints together are given at most `max_in_flight` requests, by credit: see `credit.py`.
    """

    def __init__(
        self,
        nc: NatsClient,
        config: ServiceConfig,
        endpoints: Sequence[Endpoint],
        *,
        max_in_flight: int,
        tracing: NoTracing | Tracing,
        facts: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """`facts` about the whole task are in the `data` of each endpoint's statistics."""
        super().__init__(nc, config)
        self.nc = nc
        self.tracing = tracing
        self.facts = facts
        self.credit = Credit(nc, max_in_flight)
        self._dispatches = tuple(_Dispatch(self, endpoint) for endpoint in endpoints)
        for dispatch in self._dispatches:
            self.credit.add(dispatch.endpoint.subject, QUEUE_GROUP, dispatch.on_message)

    @property
    def requests(self) -> Mapping[str, RequestStats]:
        """The statistics of each endpoint, by name."""
        return {dispatch.endpoint.name: dispatch.stats for dispatch in self._dispatches}

    async def serve(self) -> None:
        """Answer `$SRV` and take requests."""
        await self.start()
        self.credit.open()

    async def drain(self) -> None:
        """Take no more requests; return when those already delivered are answered."""
        await self.credit.close()
        await self.credit.idle()

    @property
    def in_flight(self) -> int:
        return self.credit.in_flight

    def stats(self) -> ServiceStats:
        stats = super().stats()
        stats.endpoints = [dispatch.to_stats() for dispatch in self._dispatches]
        return stats

    def info(self) -> ServiceInfo:
        info = super().info()
        info.endpoints = [dispatch.endpoint.info() for dispatch in self._dispatches]
        return info
