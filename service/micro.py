"""Concurrent request dispatch for ADR-32 services.

`nats.micro` awaits a handler before it takes the next message, so it serves one request at a time and its
numbers follow from that. Discovery, identity and the `$SRV` replies are its own; the endpoint is replaced
(docs/adr/0002-micro.md). A handler returns as soon as its request is on the way; the request stays in flight,
and in the statistics, until it is answered.

The wire format is ADR-32's: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER
from nats.micro.service import EndpointInfo, EndpointStats, Service, ServiceInfo, ServiceStats

from service.connection import roundtrip
from service.contract import INBOX_PREFIX
from service.errors import BadRequest, InternalError, NotFound, Overloaded, RequestError, Unavailable
from service.tracing import Tracing

log: Final = structlog.get_logger("service.micro")

OK: Final = "OK"
REPLY_LOST: Final = "REPLY_LOST"
OUTCOMES: Final = (
    OK,
    REPLY_LOST,
    *(error.description for error in (BadRequest, NotFound, Overloaded, Unavailable, InternalError)),
)
LATENCY_BOUNDS_S: Final = (
    0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0,
)  # fmt: skip


_OWN_INBOX: Final = f"{INBOX_PREFIX}."


def is_inbox(subject: str) -> bool:
    """Whether a reply may go there: an inbox, as clients (`_INBOX`) and servers (`_R_`) make them.

    The service may publish where a requester must not, and must not be made to do it in its name: to the stream and
    the bucket, to other programs' subjects, to the inbox in which its own events are acknowledged.
    """
    return subject.startswith("_") and not subject.startswith(_OWN_INBOX)


@dataclass(slots=True)
class EndpointNumbers:
    """What an endpoint has done since it started. Plain numbers: they are written once a request."""

    received: int = 0
    finished: int = 0
    errors: int = 0
    last_error: str = ""
    processing_ns: int = 0
    replies_lost: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))


class Request:
    """One request, in flight until `respond` or `refuse` is called, once."""

    __slots__ = ("_endpoint", "_msg", "_received_ns", "_span")

    def __init__(self, endpoint: ConcurrentEndpoint, msg: Msg) -> None:
        self._endpoint = endpoint
        self._msg = msg
        self._received_ns = time.perf_counter_ns()
        self._span = endpoint.tracing.begin(msg.headers) if endpoint.tracing else None

    @property
    def data(self) -> bytes:
        return self._msg.data

    @property
    def traceparent(self) -> str | None:
        """Of this request's span; None when requests are not traced."""
        return self._endpoint.tracing.traceparent(self._span) if self._endpoint.tracing and self._span else None

    async def respond(self, payload: bytes) -> bool:
        """Answer. False when the reply could not be handed to the connection; never raises for that."""
        sent = await self._publish(payload, None)
        self._finish(OK if sent else REPLY_LOST, None)
        return sent

    async def refuse(self, error: RequestError) -> None:
        """Answer with an error: its code and description as headers, its body as payload."""
        headers = {ERROR_CODE_HEADER: error.code, ERROR_HEADER: error.description}
        await self._publish(error.body, headers)
        self._finish(error.description, f"{error.code}:{error.description}")

    def _finish(self, outcome: str, error: str | None) -> None:
        self._endpoint.finish(self._received_ns, outcome, error)
        if self._endpoint.tracing and self._span:
            self._endpoint.tracing.end(self._span, outcome)

    async def _publish(self, payload: bytes, headers: dict[str, str] | None) -> bool:
        reply = self._msg.reply
        if not is_inbox(reply):
            return False
        try:
            await self._endpoint.client.publish(reply, payload, headers=headers)
        except nats.errors.Error as error:
            self._endpoint.numbers.replies_lost += 1
            log.debug("reply lost", reply=reply, error=str(error))
            return False
        return True


Handler = Callable[[Request], Awaitable[None]]
"""Starts the work on a request and returns; a `RequestError` it raises becomes the reply."""


class ConcurrentEndpoint:
    """An endpoint whose requests are worked on concurrently, at most `max_in_flight` of them.

    One request more is refused with `503 OVERLOADED` at once.
    """

    def __init__(
        self,
        client: Client,
        handler: Handler,
        *,
        name: str,
        subject: str,
        queue_group: str,
        max_in_flight: int,
        metadata: dict[str, str],
        tracing: Tracing | None = None,
    ) -> None:
        self.client = client
        self.tracing = tracing
        self.name = name
        self.subject = subject
        self.queue_group = queue_group
        self.metadata = metadata
        self.numbers = EndpointNumbers()
        self._handler = handler
        self._max_in_flight = max_in_flight
        self._log_requests = log.bind().is_enabled_for(logging.DEBUG)
        self._overloaded = Overloaded(f"more than {max_in_flight} requests in flight; try again")
        self._idle = asyncio.Event()
        self._idle.set()
        self._subscription: Subscription | None = None

    @property
    def in_flight(self) -> int:
        return self.numbers.received - self.numbers.finished

    async def start(self) -> None:
        self._subscription = await self.client.subscribe(self.subject, queue=self.queue_group, cb=self._on_message)

    async def drain(self) -> None:
        """Take no more requests; return when those already delivered are answered."""
        subscription, self._subscription = self._subscription, None
        if subscription and self.client.is_connected:
            try:
                # drain() alone would not wait for the server to have read its UNSUB: what came before would be lost.
                await self.client._send_unsubscribe(subscription._id)
                await roundtrip(self.client)
                await subscription.drain()
            except nats.errors.Error as error:
                log.warning("subscription not drained", error=str(error))
        await self._idle.wait()

    async def _on_message(self, msg: Msg) -> None:
        request = Request(self, msg)
        in_flight = self.in_flight
        self.numbers.received += 1
        if in_flight == 0:
            self._idle.clear()
        try:
            if in_flight >= self._max_in_flight:
                await request.refuse(self._overloaded)
            elif not is_inbox(msg.reply):
                await request.refuse(BadRequest("no inbox to reply to"))
            else:
                await self._handler(request)
        except RequestError as error:
            await request.refuse(error)
        except Exception:
            log.exception("request failed", subject=msg.subject)
            await request.refuse(InternalError("internal error"))

    def finish(self, received_ns: int, outcome: str, error: str | None) -> None:
        """Count one request as done. For `Request` alone."""
        numbers = self.numbers
        elapsed_ns = time.perf_counter_ns() - received_ns
        numbers.finished += 1
        numbers.processing_ns += elapsed_ns
        numbers.outcomes[outcome] += 1
        numbers.latency_counts[bisect_left(LATENCY_BOUNDS_S, elapsed_ns / 1e9)] += 1
        if error is not None:
            numbers.errors += 1
            numbers.last_error = error
        if self._log_requests:
            log.debug("request", outcome=outcome, ms=elapsed_ns / 1e6)
        if numbers.finished == numbers.received:
            self._idle.set()

    def stats(self) -> EndpointStats:
        numbers = self.numbers
        return EndpointStats(
            name=self.name,
            subject=self.subject,
            queue_group=self.queue_group,
            num_requests=numbers.received,
            num_errors=numbers.errors,
            last_error=numbers.last_error,
            processing_time=numbers.processing_ns,
            average_processing_time=numbers.processing_ns // max(1, numbers.finished),
            data={"in_flight": self.in_flight},
        )

    def info(self) -> EndpointInfo:
        return EndpointInfo(name=self.name, subject=self.subject, queue_group=self.queue_group, metadata=self.metadata)


class ConcurrentService(Service):
    """`nats.micro`'s service (PING, INFO and STATS, each plain, by name and by id) over a concurrent endpoint."""

    endpoint: ConcurrentEndpoint | None = None

    async def serve(self, endpoint: ConcurrentEndpoint) -> None:
        """Answer `$SRV` and take requests."""
        await self.start()
        await endpoint.start()
        self.endpoint = endpoint

    def stats(self) -> ServiceStats:
        stats = super().stats()
        stats.endpoints = [self.endpoint.stats()] if self.endpoint else []
        return stats

    def info(self) -> ServiceInfo:
        info = super().info()
        info.endpoints = [self.endpoint.info()] if self.endpoint else []
        return info
