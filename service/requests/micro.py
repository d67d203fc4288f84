"""Concurrent request dispatch for ADR-32 services.

`nats.micro` awaits a handler before it takes the next message, so it serves one request at a time, and its
statistics assume that. Discovery, identity and the `$SRV` replies still come from it; the endpoints are replaced
(docs/adr/0002-micro.md). A handler returns as soon as the work on its requests has started; a request counts as in
flight until it is answered.

The wire format is ADR-32's: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import structlog
from nats.micro.service import EndpointInfo, EndpointStats, ServiceConfig, ServiceInfo, ServiceStats

from service.contracts.requests import QUEUE_GROUP
from service.nats.client import NatsClient
from service.nats.parser import Read
from service.nats.srv import Discovery, are_inboxes, is_inbox
from service.requests.burst import OK, REPLY_LOST, Burst
from service.requests.credit import Credit
from service.requests.errors import ERRORS, BadRequest, NotFound
from service.runtime.telemetry.metrics import Histogram
from service.runtime.telemetry.tracing import NoTracing, Tracing

log: Final = structlog.get_logger("service.micro")

OUTCOMES: Final = (OK, REPLY_LOST, *(error.description for error in ERRORS))
ANSWERS: Final = frozenset({OK, NotFound.description})
"""Outcomes whose latency is observed. Refusals take microseconds and would make an overloaded task look fast."""
LATENCY_BUCKETS: Final = (
    0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0,
)  # fmt: skip

Handler = Callable[[Burst, Sequence[str]], None]
"""Start work on a burst's requests, given their payloads (each character is a byte), and return.

An exception becomes the reply to the requests left in the burst.
"""


@dataclass(frozen=True)
class Endpoint:
    """What `$SRV.INFO` says about an endpoint, and the handler of its requests."""

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
    """What an endpoint has done since it started. Plain numbers, updated once per burst."""

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
        self._is_traced = isinstance(service.tracing, Tracing)

    def on_read(self, read: Read) -> None:
        """Take the requests of one read. A request neither waits for another's answer nor fails with it."""
        received_ns = time.perf_counter_ns()
        if self._is_traced:
            for number, (reply, payload) in enumerate(zip(read.replies, read.payloads, strict=True)):
                span = self._service.tracing.begin(self.endpoint.subject, read.headers[number])
                self._take(received_ns, [reply], [payload], span)
        else:
            self._take(received_ns, read.replies, read.payloads)

    def _take(self, received_ns: int, replies: Sequence[str], payloads: Sequence[str], span: Any = None) -> None:
        service = self._service
        odd: Sequence[int] = ()
        if not are_inboxes(replies):
            replies, payloads = self._decoded(replies, payloads)
            odd = [number for number, reply in enumerate(replies) if not is_inbox(reply)]
        self.stats.received += len(replies)
        service.credit.enter(len(replies))
        context = service.tracing.context(span) if span else None
        burst = Burst(replies, received_ns, service.nc.post_frames, self._finish, span, context)
        if odd:
            burst.take(odd).refuse(BadRequest("no inbox to reply to"))
            payloads = [payload for number, payload in enumerate(payloads) if number not in odd]
        if burst.replies:
            burst.attempt(self.endpoint.handler, payloads)

    def _decoded(self, replies: Sequence[str], payloads: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return reply subjects as text, with their payloads; drop a request whose reply subject is not UTF-8."""
        texts, theirs = list[str](), list[str]()
        for reply, payload in zip(replies, payloads, strict=True):
            try:
                texts.append(reply.encode("latin-1").decode())
                theirs.append(payload)
            except UnicodeDecodeError as error:
                self._service.nc.drop(error)
        return texts, theirs

    def _finish(self, burst: Burst, count: int, outcome: str, *, error: str = "", lost: int = 0) -> None:
        stats = self.stats
        elapsed_ns = time.perf_counter_ns() - burst.received_ns
        stats.finished += count
        stats.processing_ns += elapsed_ns * count
        stats.outcomes[outcome] += count
        if outcome in ANSWERS:
            stats.latency_seconds.observe(elapsed_ns / 1e9, count)
        stats.replies_lost += lost
        if error:
            stats.errors += count
            stats.last_error = error
        if self._log_requests:
            for _ in range(count):
                log.debug("request", endpoint=self.endpoint.name, outcome=outcome, ms=elapsed_ns / 1e6)
        if burst.span:
            self._service.tracing.end(burst.span, self.endpoint.name, outcome)
        self._service.credit.leave(count)

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
    """`nats.micro`'s service (PING, INFO and STATS, each for all, by name and by id) with concurrent endpoints.

    Credit limits all endpoints together to `max_in_flight` requests: see `credit.py`.
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
        """`facts` returns facts about the whole task, for `data` in each endpoint's statistics."""
        super().__init__(nc, config)
        self.nc = nc
        self.tracing = tracing
        self.facts = facts
        self.credit = Credit(nc, max_in_flight)
        self._dispatches = tuple(_Dispatch(self, endpoint) for endpoint in endpoints)
        for dispatch in self._dispatches:
            self.credit.add(dispatch.endpoint.subject, QUEUE_GROUP, dispatch.on_read)

    @property
    def requests(self) -> Mapping[str, RequestStats]:
        """Statistics of each endpoint, by name."""
        return {dispatch.endpoint.name: dispatch.stats for dispatch in self._dispatches}

    async def serve(self) -> None:
        """Start to answer `$SRV` and to take requests."""
        await self.start()
        self.credit.open()

    async def drain(self) -> None:
        """Stop taking requests; return when all delivered ones are answered."""
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
