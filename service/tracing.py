"""One OpenTelemetry span for each request, when `OTEL_EXPORTER_OTLP_ENDPOINT` says where they go.

Everything else is the SDK's own: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
Context comes from the request's `traceparent` header (https://www.w3.org/TR/trace-context/) and goes on in the
event's. OpenTelemetry is imported only when it is asked for: requirements/service-otel.txt.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from service import __version__, contract
from service.errors import ServiceFault
from service.lookup import Outcome, Read

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

TRACEPARENT: Final = "traceparent"
_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_batch: ContextVar[Span | None] = ContextVar("batch", default=None)
"""Of the task that delivers a batch's answers."""


def tracing() -> Tracing | None:
    """None when no endpoint is set.

    Raises `ServiceFault` when one is, and OpenTelemetry is not installed.
    """
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if variable is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ServiceFault(
            f"{variable} is set and OpenTelemetry is not installed ({error})",
            "install requirements/service-otel.txt, or unset it",
        ) from None
    name = os.environ.get("OTEL_SERVICE_NAME") or "customer-balance"
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class Tracing:
    """Spans of requests, and of the BatchGetItem calls that they ride in."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._tracer = provider.get_tracer("customer-balance", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = SpanKind

    def begin(self, headers: Mapping[str, str] | None) -> Span:
        """A request's span: a child of the requester's, if it sent one."""
        parent = self._propagator.extract(headers) if headers else None
        attributes = {"messaging.system": "nats", "messaging.destination.name": contract.SUBJECT}
        return self._tracer.start_span(contract.SUBJECT, context=parent, kind=self._kinds.SERVER, attributes=attributes)

    def end(self, span: Span, outcome: str) -> None:
        span.set_attribute("balance.outcome", outcome)
        batch = _batch.get()
        if batch is not None:
            span.add_link(batch.get_span_context())
        span.end()

    def traceparent(self, span: Span) -> str:
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return carrier[TRACEPARENT]

    def read(self, read: Read) -> Read:
        """`read` with a span, to which the spans of the requests that rode in it are linked."""

        async def traced(ids: Sequence[str]) -> Mapping[str, Outcome]:
            attributes: dict[str, str | int] = {"db.system.name": "aws.dynamodb", "db.operation.batch.size": len(ids)}
            with self._tracer.start_span("BatchGetItem", kind=self._kinds.CLIENT, attributes=attributes) as span:
                _batch.set(span)
                return await read(ids)

        return traced

    async def close(self, timeout_s: float) -> None:
        """Send what is there; what a collector does not take within `timeout_s` seconds is lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, timeout_s)
