"""Spans in a real collector's format, from a real task: one for each request, linked to the batch it rode in."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from nats.aio.msg import Msg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceState

from local.process import claim_port
from service.nats.connection import roundtrip
from service.runtime.telemetry.tracing import Tracing
from tests.support.world import World, complaint, eventually, stop

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """The receiving end of OTLP over HTTP: https://opentelemetry.io/docs/specs/otlp/#otlphttp."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return web.Response()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def attributes(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value or str(each.value.int_value) for each in span.attributes}


async def test_a_span_for_each_request_with_its_batch(world: World, collector: Collector) -> None:
    events: list[Msg] = []

    async def see(event: Msg) -> None:
        events.append(event)

    async with world.task(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as task, world.client() as client:
        async with world.administrator() as admin:
            await admin._nc.subscribe("customer.balance.*", cb=see)
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            await client.request("customer.balance", b'{"client_id":"7"}', timeout=2, headers=headers)
            await client.request("customer.balance", b'{"client_id":"stranger"}', timeout=2)
            await client.request("customer.balance", b"zz", timeout=2, headers={"traceparent": "00-zz-not-one"})
            await eventually(lambda: len(events) == 1)
        await stop(task)  # what the collector does not have yet is sent before it ends
    first, stranger, malformed = collector.named("customer.balance")
    assert [attributes(span)["balance.outcome"] for span in (first, stranger, malformed)] == [
        "OK", "NOT_FOUND", "BAD_REQUEST",
    ]  # fmt: skip
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert stranger.trace_id.hex() != TRACE
    batches = {span.span_id: span for span in collector.named("BatchGetItem")}
    assert [attributes(batches[span.links[0].span_id])["db.operation.batch.size"] for span in (first, stranger)] == [
        "1", "1",
    ]  # fmt: skip
    assert not malformed.links, "it rode in none"
    assert collector.resource["service.name"] == "customer-balance"
    (event,) = events
    assert (event.headers or {})["traceparent"] == f"00-{TRACE}-{first.span_id.hex()}-01"


async def test_adjustments_that_share_a_transaction_are_all_linked_to_it(world: World, collector: Collector) -> None:
    """What is answered by the ledger's rows alone, a repeat and a refusal, is linked to their read."""
    world.put_rows({"7": 100})
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **await world.with_adjustments()}
    async with world.task(**env) as task, world.client("teller") as client:

        async def adjust(name: str, points: int) -> bytes:
            request = {"client_id": "7", "adjustment_id": name, "points": points}
            return (await client.request("customer.adjust", orjson.dumps(request), timeout=5)).data

        first = await adjust("first", 1)
        await asyncio.gather(*(adjust(f"id-{number}", 1) for number in range(30)))
        assert await adjust("first", 1) == first
        assert b"less than that" in await adjust("too much", -1_000)
        await client.request("customer.statement", b'{"client_id":"7"}', timeout=5)
        await stop(task)
    calls = {span.span_id: span for span in collector.spans if span.name in ("TransactWriteItems", "BatchGetItem")}
    linked = [calls[link.span_id] for span in collector.named("customer.adjust") for link in span.links]
    assert [call.name for call in linked[-2:]] == ["BatchGetItem"] * 2
    written = Counter(call.span_id for call in linked[:-2])
    assert written.total() == 31
    assert {calls[call].name for call in written} == {"TransactWriteItems"}
    sizes = [int(attributes(calls[call])["db.operation.batch.size"]) for call in written]
    assert sizes == [1 + adjustments for adjustments in written.values()], "a transaction has the balance too"
    assert len(written) < 31, "some shared one"
    (statement,) = collector.named("customer.statement")
    *_, query = collector.named("Query")  # the start makes one, too
    assert [link.span_id for link in statement.links] == [query.span_id]


STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
NAMES = [("traceparent", "tracestate"), ("Traceparent", "Tracestate"), ("TRACEPARENT", "TRACESTATE")]


@pytest.mark.parametrize(("parent", "state"), NAMES)
async def test_the_names_of_w3c_are_read_in_any_case_and_both_go_on(
    parent: str, state: str, world: World, collector: Collector
) -> None:
    """https://www.w3.org/TR/trace-context/#header-name"""
    async with world.task(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint) as task, world.client() as client:
        async with world.administrator() as admin:
            events = await admin._nc.subscribe("customer.balance.*")
            await roundtrip(admin._nc)
            headers = {"X-First": "1", parent: f"00-{TRACE}-{PARENT}-01", state: STATE}
            await client.request("customer.balance", b'{"client_id":"7"}', timeout=2, headers=headers)
            event = await events.next_msg(timeout=10)
        await stop(task)
    (span,) = collector.named("customer.balance")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert event.headers
    assert event.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert event.headers["tracestate"] == STATE
    assert event.headers.keys() == {"Nats-Msg-Id", "traceparent", "tracestate"}


def test_a_long_state_is_cut_as_w3c_says() -> None:
    """https://www.w3.org/TR/trace-context/#tracestate-limits: 512 characters go on at least; long members go first."""
    short, long = [f"k{number}={'v' * 90}" for number in range(8)], "l=" + "v" * 200
    given = TraceState.from_header([",".join([long, *short])])
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_state=given))
    context = Tracing(TracerProvider()).context(span)
    assert context
    assert context["tracestate"] == ",".join(short[:5])
    whole = "a=" + "v" * 250
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_state=TraceState.from_header([whole])))
    assert (Tracing(TracerProvider()).context(span) or {})["tracestate"] == whole


async def test_a_collector_that_is_away_costs_no_request(world: World) -> None:
    endpoint = f"http://127.0.0.1:{claim_port(0, '')}"
    async with world.task(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as task, world.client() as client:
        replies = [client.request("customer.balance", b'{"client_id":"7"}', timeout=2) for _ in range(20)]
        assert all(reply.headers is None for reply in await asyncio.gather(*replies))
        async with asyncio.timeout(8):
            await stop(task)
    assert await world.last_sequence() == 20


async def test_without_opentelemetry(world: World, tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not here')")
    env = {"PYTHONPATH": str(tmp_path)}
    async with world.task(**env) as task:
        await stop(task)
    code, output = await world.run_to_end(health_port=0, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318", **env)
    assert code == 1
    assert complaint(output) == (
        "error: OTEL_EXPORTER_OTLP_ENDPOINT is set and OpenTelemetry is not installed (not here); "
        "install requirements/service-otel.txt, or unset it"
    )
