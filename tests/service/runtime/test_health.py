"""What operators see: health that tells the truth, metrics that add up, logs that a machine can read."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import orjson

from control_plane.desired import ACCOUNT
from service.contracts.stream import STREAM
from service.runtime.cancel import cancel
from service.runtime.health import serve_health
from tests.support.dynamodb.faulty import FaultyDynamoDB, refusal
from tests.support.nats.declared import ensure
from tests.support.world import World, eventually, get, log_lines, metric, statistics


async def test_metrics_add_up(world: World) -> None:
    async with world.task() as task, world.client() as client:
        for payload in (*[b'{"client_id":"7"}'] * 5, b'{"client_id":"stranger"}', b"zz"):
            await client.request("customer.balance", payload, timeout=3)
        assert await metric(task, "balance_requests_total") == 7
        assert await metric(task, "balance_request_seconds_count") == 6, "a refusal is no answer"
        assert 0 < await metric(task, "balance_request_seconds_sum") < 5
        assert await metric(task, "balance_requests_in_flight") == 0
        assert await metric(task, "balance_batch_keys_count") >= 6
        assert await metric(task, "balance_dynamodb_call_seconds_count") >= 6

        async def acknowledged() -> bool:
            return await metric(task, "balance_events_published_total") == 5

        await eventually(acknowledged)
        assert await metric(task, "balance_events_pending") == 0
        assert await metric(task, "process_resident_memory_bytes") > 1e6
        _, text = await get(f"{task.health_url}/metrics")
        assert 'balance_requests_total{endpoint="balance",outcome="OK"} 5.0' in text
        assert 'balance_requests_total{endpoint="balance",outcome="NOT_FOUND"} 1.0' in text
        assert 'balance_requests_total{endpoint="balance",outcome="BAD_REQUEST"} 1.0' in text


async def problems(health_url: str) -> dict[str, str]:
    _, body = await get(f"{health_url}/readyz")
    found: dict[str, str] = orjson.loads(body).get("problems", {})
    return found


async def test_readiness_names_what_is_wrong(world: World, proxy: FaultyDynamoDB) -> None:
    async with world.task(**proxy.env) as task, world.client() as client:
        assert orjson.loads((await get(f"{task.health_url}/readyz"))[1]) == {"status": "ready"}

        proxy.fault = lambda *_: refusal("ThrottlingException")

        async def table_is_named() -> bool:
            return "busy" in (await problems(task.health_url)).get("table", "")

        await eventually(table_is_named)
        proxy.fault = None

        async def nothing_is_wrong() -> bool:
            return not await problems(task.health_url)

        await eventually(nothing_is_wrong)

        async with world.administrator() as admin:
            await admin.delete_stream(STREAM)
        reply = await client.request("customer.balance", b'{"client_id":"7"}', timeout=3)
        assert reply.data.startswith(b'{"balance":'), "it keeps answering"

        async def stalled() -> bool:
            return await metric(task, "balance_events_stalled") == 1

        await eventually(stalled)
        assert (await get(f"{task.health_url}/readyz"))[0] == 200, "it serves; that events wait is another thing"
        (stats,) = await statistics(client, 1)
        data = stats["endpoints"][0]["data"]
        assert (data["events_stalled"], data["events_pending"]) == ("no stream takes the subject", 1)
        lines = [line for line in log_lines(task.child.log.read_text()) if line["event"] == "events are waiting"]
        assert len(lines) == 1, "once per state change"
        async with world.administrator() as admin:
            await ensure(admin, ACCOUNT, replicas=1)
        await eventually(nothing_is_wrong)
        task.child.signal(signal.SIGTERM)
        assert await task.child.wait() == 0
        assert await world.last_sequence() == 1


async def test_a_task_that_waits_for_another_to_seed_is_alive_and_not_ready(world: World) -> None:
    async with world.client("service") as client:
        bucket = await client.jetstream().key_value("config")
        revision = await bucket.create("seed-lease", b"another")

        async def renew(revision: int) -> None:
            while True:
                await asyncio.sleep(0.5)
                revision = await bucket.update("seed-lease", b"another", last=revision)

        renewing = asyncio.create_task(renew(revision))
        async with world.launch() as task:

            async def waits() -> bool:
                try:
                    status, body = await get(f"{task.health_url}/readyz")
                except aiohttp.ClientError:
                    return False
                return (status, orjson.loads(body)["problems"]) == (503, {"service": "starting"})

            await eventually(waits, what="a start that waits, connected and with its table")
            assert (await get(f"{task.health_url}/healthz"))[0] == 200
            await cancel(renewing)
            await bucket.put("seed", b"done")
            await eventually(lambda: "serving" in task.child.log.read_text())


async def test_logs_are_structured_and_one_line_per_request_only_at_debug(world: World) -> None:
    async with world.task() as task, world.client() as client:
        before = len(log_lines(task.child.log.read_text()))
        for _ in range(5):
            await client.request("customer.balance", b'{"client_id":"7"}', timeout=3)
        assert len(log_lines(task.child.log.read_text())) == before
        task.child.signal(signal.SIGTERM)
        await task.child.wait()
        assert all({"event", "level", "timestamp"} <= line.keys() for line in log_lines(task.child.log.read_text()))
    async with world.task(LOG_LEVEL="debug") as task, world.client() as client:
        await client.request("customer.balance", b'{"client_id":"7"}', timeout=3)
        task.child.signal(signal.SIGTERM)  # the reply leaves before its line is written
        await task.child.wait()
        (line,) = [line for line in log_lines(task.child.log.read_text()) if line["event"] == "request"]
        assert line["outcome"] == "OK"
        assert line["ms"] > 0


async def test_a_process_that_has_failed_is_not_alive() -> None:
    alive = True

    async def nothing() -> dict[str, str]:
        return {}

    async with serve_health("127.0.0.1", 0, nothing, nothing, lambda: (), lambda: alive) as port:
        assert (await get(f"http://127.0.0.1:{port}/healthz"))[0] == 200
        alive = False
        assert (await get(f"http://127.0.0.1:{port}/healthz"))[0] == 503
