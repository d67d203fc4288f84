"""One OpenTelemetry span for each request, if `OTEL_EXPORTER_OTLP_ENDPOINT` is set (or `..._TRACES_ENDPOINT`).

The SDK reads the rest: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
Context comes from the request's `traceparent` and `tracestate` headers (names in any case), and is passed on in the
event's (https://www.w3.org/TR/trace-context/#header-name). OpenTelemetry is imported only if an endpoint is set; it is
in requirements/service-otel.txt.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import structlog

from service import __version__
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log: Final = structlog.get_logger("service.tracing")
_failed: Final = Repeated(log, "a span failed")
P = ParamSpec("P")
T = TypeVar("T")
Result = TypeVar("Result")

Give = Callable[[Mapping[str, Result]], None]
Read = Callable[[Sequence[str], Give[Result]], Awaitable[None]]

_context_lines: Final = re.compile(r"\n(traceparent|tracestate):[ \t]*([^\r\n]*)", re.IGNORECASE).findall
_STATE_MAX: Final = 512
_MEMBER_MAX: Final = 128
"""Characters: a tracestate up to `_STATE_MAX` must be passed on; a longer one loses members above `_MEMBER_MAX` first:
https://www.w3.org/TR/trace-context/#tracestate-limits
"""
_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_call: ContextVar[Span | None] = ContextVar("call", default=None)
"""Span of the DynamoDB call whose answers the current asyncio task delivers."""


def tracing() -> NoTracing | Tracing:
    """Return `Tracing` if an endpoint is set, else `NoTracing`.

    Raise `ServiceError` if one is set and OpenTelemetry is not installed.
    """
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if variable is None:
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ServiceError(
            f"{variable} is set and OpenTelemetry is not installed ({error})",
            "install requirements/service-otel.txt, or unset it",
        ) from None
    # The SDK logs each tracestate member that it cannot read, and any requester may send one.
    logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
    name = os.environ.get("OTEL_SERVICE_NAME") or "customer-balance"
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _harmless(method: Callable[P, T]) -> Callable[P, T | None]:
    """Log what `method` raises and return None instead: a request is answered whatever happens to its span."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            _failed.warning(type(error).__name__, error=str(error))
            return None

    return guarded


class NoTracing:
    """Does nothing: no endpoint is set."""

    def begin(self, subject: str, headers: str) -> None:
        """Start no span."""

    def end(self, span: Any, endpoint: str, outcome: str) -> None:
        """Do nothing: there is no span to end."""

    def context(self, span: Any) -> None:
        """Return None: there is no context to pass on."""

    def call(self, action: str, size: int) -> AbstractContextManager[None]:  # noqa: ARG002  as `Tracing` has them
        """Return a context that does nothing."""
        return nullcontext()

    def other_requests(self) -> None:
        """Do nothing: no span is linked."""

    def read(self, read: Read[Result]) -> Read[Result]:
        return read

    async def close(self, timeout_s: float) -> None:
        """Do nothing: there is nothing to send."""


class Tracing:
    """Spans of requests, and of the DynamoDB calls that answer them."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._tracer = provider.get_tracer("customer-balance", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = SpanKind

    @_harmless
    def begin(self, subject: str, headers: str) -> Span | None:
        """Start a request's span: a child of the requester's, if it sent one. `headers` is the block as received."""
        parent = self._propagator.extract(_context(headers)) if headers else None
        attributes = {"messaging.system": "nats", "messaging.destination.name": subject}
        return self._tracer.start_span(subject, context=parent, kind=self._kinds.SERVER, attributes=attributes)

    @_harmless
    def end(self, span: Span, endpoint: str, outcome: str) -> None:
        span.set_attribute("balance.endpoint", endpoint)
        span.set_attribute("balance.outcome", outcome)
        call = _call.get()
        if call is not None:
            span.add_link(call.get_span_context())
        span.end()

    @_harmless
    def context(self, span: Span) -> Mapping[str, str] | None:
        """Return the headers that propagate a span; none if it is not recorded, as with `OTEL_SDK_DISABLED=true`."""
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        if state := carrier.pop("tracestate", ""):
            carrier |= _bounded(state)
        return carrier

    @contextmanager
    def call(self, action: str, size: int) -> Iterator[None]:
        """Open a span for a DynamoDB call for `size` items; the requests that it answers are linked to it."""
        span = self._begin_call(action, size)
        try:
            yield
        finally:
            self._end_call(span)

    def other_requests(self) -> None:
        """Unlink the previous call: from here on, this task answers other requests."""
        _call.set(None)

    def read(self, read: Read[Result]) -> Read[Result]:
        """Return `read` with a span for each BatchGetItem."""

        async def traced(ids: Sequence[str], give: Give[Result]) -> None:
            with self.call("BatchGetItem", len(ids)):
                await read(ids, give)

        return traced

    @_harmless
    def _begin_call(self, action: str, size: int) -> Span | None:
        attributes: dict[str, str | int] = {"db.system.name": "aws.dynamodb", "db.operation.batch.size": size}
        span = self._tracer.start_span(action, kind=self._kinds.CLIENT, attributes=attributes)
        _call.set(span)
        return span

    @_harmless
    def _end_call(self, span: Span | None) -> None:
        if span:
            span.end()

    async def close(self, timeout_s: float) -> None:
        """Send the remaining spans; those that a collector does not take within `timeout_s` seconds are lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, timeout_s)


def _context(headers: str) -> Mapping[str, str]:
    """Return the W3C headers, names in lower case: NATS keeps a header's name as it was written."""
    return {name.lower(): value.rstrip() for name, value in _context_lines(headers)}


def _bounded(state: str) -> Mapping[str, str]:
    """Cut a tracestate to the length that must be passed on, so that a requester cannot make events longer."""
    members = state.split(",")
    if len(state) > _STATE_MAX:
        members = [member for member in members if len(member) <= _MEMBER_MAX]
    while len(",".join(members)) > _STATE_MAX:
        members.pop()
    return {"tracestate": ",".join(members)} if members else {}
