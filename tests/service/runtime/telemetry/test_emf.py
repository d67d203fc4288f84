"""The metrics in the log are CloudWatch's embedded format, and count what happened since the last line."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping

import orjson
import pytest

from service.customer import backlog
from service.customer.metrics import UNITS
from service.requests.micro import LATENCY_BUCKETS
from service.runtime.cancel import cancel
from service.runtime.telemetry import emf
from service.runtime.telemetry.metrics import quantile
from tests.support.world import World, eventually


async def test_a_tasks_lines(world: World) -> None:
    async with world.task() as task, world.client() as client:
        for payload in (*[b'{"client_id":"7"}'] * 5, b"zz", b'{"client_id":"nobody"}'):
            await client.request("customer.balance", payload, timeout=3)
        task.child.signal(signal.SIGTERM)
        assert await task.child.wait() == 0
        lines = [orjson.loads(line) for line in task.child.log.read_text().splitlines() if '"_aws"' in line]
    (line,) = lines  # the one at the end; the others come once a minute
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "CustomerBalance"
    assert directive["Dimensions"] == [["Table"]]
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == UNITS | backlog.UNITS
    assert all(isinstance(line[name], int | float) for name in UNITS)
    assert abs(line["_aws"]["Timestamp"] / 1000 - time.time()) < 60
    assert (line["Table"], line["Requests"], line["BAD_REQUEST"], line["NOT_FOUND"]) == (world.table, 7, 1, 1)
    assert (line["EventsPending"], line["EventsDropped"]) == (0, 0)
    assert 0 < line["LatencyP50"] <= line["LatencyP99"] < 1000
    assert line["BatchSize"] == pytest.approx(1, abs=0.5)


async def test_it_is_written_in_every_interval(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    counts = iter(range(1000))
    monkeypatch.setattr(emf, "INTERVAL_S", 0.02)
    written = 0

    def figures() -> Mapping[str, emf.Figure]:
        nonlocal written
        written += 1
        return {"Requests": (next(counts), "Count"), "OK": (7, None)}

    running = asyncio.create_task(emf.Emitter(emf.Figures("Space", ("Table", "t"), figures)).run())
    await eventually(lambda: written >= 2, what="two intervals")
    await cancel(running)
    lines = [orjson.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert len(lines) == written
    assert [line["Requests"] for line in lines] == list(range(len(lines))), "one line an interval, one at the end"
    for line in lines:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive == {
            "Namespace": "Space", "Dimensions": [["Table"]], "Metrics": [{"Name": "Requests", "Unit": "Count"}],
        }  # fmt: skip
        assert (line["Table"], line["OK"]) == ("t", 7)


def test_quantiles_are_linear_within_a_bucket() -> None:
    counts = [0] * (len(LATENCY_BUCKETS) + 1)
    bucket = LATENCY_BUCKETS.index(0.01)
    counts[bucket] = 100
    lower, upper = LATENCY_BUCKETS[bucket - 1] * 1000, 10.0
    assert quantile(LATENCY_BUCKETS, counts, 0.5) * 1000 == pytest.approx((lower + upper) / 2)
    assert quantile(LATENCY_BUCKETS, counts, 1.0) * 1000 == pytest.approx(upper)
    counts[-1] = 10_000
    assert quantile(LATENCY_BUCKETS, counts, 0.99) == LATENCY_BUCKETS[-1]
