"""Reports of outages: a real stream, and a real HTTP server as the webhook."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from aiohttp import web

from service.contracts import devices as contract
from service.devices.outages import oldest, report
from service.devices.outages.post import NAMES, body, text
from service.devices.outages.report import Reporter
from service.devices.presence import lock
from service.devices.settings import DevicesSettings
from service.runtime.errors import ServiceError
from tests.support.devices.presence import connection, nats_settings
from tests.support.devices.world import DevicesWorld
from tests.support.world import eventually


@dataclass
class Hook:
    """Takes posts. `answer` says how: a status, or how many seconds to be silent before it closes."""

    url: str = ""
    posts: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    """Keys of the posts that it took."""
    answer: Callable[[], web.Response] = lambda: web.Response(status=204)

    async def handle(self, request: web.Request) -> web.Response:
        self.posts.append(orjson.loads(await request.read()))
        self.keys.append(request.headers["Idempotency-Key"])
        response = self.answer()
        if response.status < 300:
            self.taken.append(self.keys[-1])
        return response


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    hook = Hook()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/hook", hook.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook?secret=SEED"
    yield hook
    await runner.cleanup()


@asynccontextmanager
async def reporter(devices: DevicesWorld, hook: Hook, **given: Any) -> AsyncIterator[Reporter]:
    settings = DevicesSettings(
        **nats_settings(devices), devices_table="readings",
        **{"outage_webhook": hook.url, "outage_window": 0.5, **given},
    )  # fmt: skip
    errors: list[ServiceError] = []
    async with connection(devices) as opened:
        one = Reporter(opened, settings, errors.append)
        for need in one.needs():
            await need.look()
        await one.start()
        try:
            yield one
        finally:
            await one.drain(4)
            await one.close()
    assert errors == []


async def event(devices: DevicesWorld, kind: str, *names: str) -> None:
    for name in names:
        await devices.admin.publish(f"{contract.EVENT_PREFIX}{kind}.{name}", b"{}")


async def reported(devices: DevicesWorld) -> bool:
    info = await devices.admin.consumer_info(contract.OUTAGES_STREAM, contract.WEBHOOK_CONSUMER)
    return (info.num_pending or 0) + (info.num_ack_pending or 0) == 0


async def test_all_of_a_window_are_one_post(devices: DevicesWorld, hook: Hook) -> None:
    async with reporter(devices, hook, outage_window=2) as one:
        await event(devices, "down", "d1", "d2", "d1")
        await event(devices, "up", "d3")
        await eventually(lambda: reported(devices), within_s=20)
        assert hook.posts == [
            {
                "text": text(["d1", "d2"], ["d3"]),
                "down": ["d1", "d2"],
                "up": ["d3"],
            }
        ]
        assert (one.stats.reports, one.stats.devices, one.stats.failures) == (1, 3, 0)
        await event(devices, "down", "d4")
        await eventually(lambda: reported(devices), within_s=20)
        assert hook.posts[1]["down"] == ["d4"]
        assert len(set(hook.keys)) == 2


async def test_what_waited_for_long_is_posted_by_its_own_windows(devices: DevicesWorld, hook: Hook) -> None:
    await event(devices, "down", "d1", "d2")
    await asyncio.sleep(1.5)
    await event(devices, "down", "d3")
    async with reporter(devices, hook, outage_window=1):
        await eventually(lambda: reported(devices), within_s=20)
    assert [post["down"] for post in hook.posts] == [["d1", "d2"], ["d3"]]


@pytest.mark.parametrize("status", [500, 429, 404, 302])
async def test_a_post_is_made_again_until_it_is_taken(devices: DevicesWorld, hook: Hook, status: int) -> None:
    def answer() -> web.Response:
        if len(hook.posts) < 3:
            return web.Response(status=status, headers={"Retry-After": "1", "Location": "/elsewhere"})
        return web.Response(status=200, text="ok")

    hook.answer = answer
    async with reporter(devices, hook) as one:
        await event(devices, "down", "d1")
        await eventually(lambda: len(hook.posts) == 2, within_s=20)
        assert one.problem() == f"the webhook takes no post (status {status})"
        await event(devices, "down", "d2")
        await eventually(lambda: reported(devices), within_s=30)
        assert (one.stats.failures, one.stats.reports, one.problem()) == (2, 2, "")
    assert hook.posts[0] == hook.posts[1] == hook.posts[2]
    assert len(set(hook.keys[:3])) == 1
    assert hook.posts[3]["down"] == ["d2"]


async def test_a_webhook_that_cannot_be_reached_is_named_without_its_secret(
    devices: DevicesWorld, hook: Hook, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = replace(hook, url="http://127.0.0.1:1/hook?secret=SEED")
    async with reporter(devices, nowhere) as one:
        await event(devices, "down", "d1")
        await eventually(lambda: one.stats.failures > 0, within_s=20)
        assert one.problem() == "the webhook takes no post (ClientConnectorError)"
    output = "".join(capsys.readouterr())
    assert "outages are not reported yet" in output
    assert "SEED" not in output
    assert not await reported(devices)
    async with reporter(devices, hook):
        await eventually(lambda: reported(devices), within_s=20)
    assert hook.posts[0]["down"] == ["d1"]


async def test_two_processes_report_once_and_a_stopped_one_is_replaced_at_once(
    devices: DevicesWorld, hook: Hook
) -> None:
    async with reporter(devices, hook) as one:
        await eventually(lambda: one._lock.held, within_s=10)
        async with reporter(devices, hook) as two:
            await event(devices, "down", *(f"d{number}" for number in range(10)))
            await eventually(lambda: reported(devices), within_s=20)
            assert (one.stats.reports > 0, two.stats.reports) == (True, 0)
            await one.drain(4)
            began = time.monotonic()
            await event(devices, "up", "d1")
            await eventually(lambda: reported(devices), within_s=20)
            assert two.stats.reports == 1
            assert time.monotonic() - began < lock.TTL_S
    assert len(hook.keys) == len(set(hook.keys))
    assert sorted(name for post in hook.posts for name in post["down"]) == sorted(f"d{number}" for number in range(10))


async def test_a_dead_one_is_replaced_within_15_seconds_and_its_post_has_the_same_key(
    devices: DevicesWorld, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after the post, before the acknowledgement: who takes over makes the same post."""
    await devices.shorten_ack_wait()
    async with reporter(devices, hook) as one:
        await eventually(lambda: one._lock.held, within_s=10)
        monkeypatch.setattr(one._source, "acknowledge", lambda _: None)
        monkeypatch.setattr(one._source, "extend", lambda _: None)
        await event(devices, "down", "d1", "d2")
        await eventually(lambda: len(hook.taken) == 1, within_s=20)
        await one._lock._nc.close()  # nothing of it reaches NATS from here on
        died = time.monotonic()
        async with reporter(devices, hook) as two:
            await eventually(lambda: two._lock.held, within_s=20)
            assert time.monotonic() - died < 15
            await eventually(lambda: reported(devices), within_s=20)
    assert hook.posts[0] == hook.posts[1]
    assert len(set(hook.keys)) == 1


async def test_each_process_publishes_the_age_of_an_outage_that_nobody_reports(
    devices: DevicesWorld, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is held by nobody who lives: the alarm must not wait for somebody who takes it."""
    monkeypatch.setattr(oldest, "LOOK_S", 0.1)
    held = f"{contract.KEY_PREFIX}{contract.LOCK_WEBHOOK}"
    await devices.admin.publish(held, b"somebody else")
    async with reporter(devices, hook) as one, reporter(devices, hook) as two:
        await event(devices, "down", "d1")
        await event(devices, "down", "d2")
        for each in (one, two):
            await eventually(lambda each=each: each.oldest_s() > 1, within_s=20)
        assert hook.posts == []
        await devices.admin.publish(held, b"")
        await eventually(lambda: reported(devices), within_s=20)
        for each in (one, two):
            await eventually(lambda each=each: each.oldest_s() == 0, within_s=20)
        assert [post["down"] for post in hook.posts] == [["d1", "d2"]]


async def test_the_drain_has_a_deadline(devices: DevicesWorld, hook: Hook) -> None:
    hook.answer = lambda: web.Response(status=503)
    async with reporter(devices, hook) as one:
        await event(devices, "down", "d1")
        await eventually(lambda: one.stats.failures > 0, within_s=20)
        began = time.monotonic()
        await one.drain(5)
        assert time.monotonic() - began < 5
    hook.answer = lambda: web.Response(status=200)
    async with reporter(devices, hook):  # given back: nobody waits for the end of its visibility
        began = time.monotonic()
        await eventually(lambda: reported(devices), within_s=20)
        assert time.monotonic() - began < contract.ACK_WAIT_S


async def test_without_a_webhook_nothing_is_needed_and_nothing_read(devices: DevicesWorld, hook: Hook) -> None:
    await event(devices, "down", "d1")
    async with reporter(devices, hook, outage_webhook=None) as one:
        assert list(one.needs()) == []
        assert one.problem() == ""
    assert not await reported(devices)


async def test_many_outages_are_few_posts(devices: DevicesWorld, hook: Hook) -> None:
    async with reporter(devices, hook, outage_window=5):
        for start in range(0, 2_000, 500):
            sent = (event(devices, "down", f"d{number}") for number in range(start, start + 500))
            await asyncio.gather(*sent)
        await eventually(lambda: reported(devices), within_s=40)
    assert len({name for post in hook.posts for name in post["down"]}) == 2_000
    assert len(hook.posts) <= 10
    assert all(len(post["text"]) <= 1_000 for post in hook.posts)


def test_the_forms() -> None:
    assert orjson.loads(body("json", ["a"], [], "")) == {"text": text(["a"], []), "down": ["a"], "up": []}
    assert orjson.loads(body("groupme", ["a"], [], "7")) == {"text": text(["a"], []), "bot_id": "7"}
    assert orjson.loads(body("slack", ["a"], ["b"], "7")) == {"text": text(["a"], ["b"])}


def test_the_text_is_the_first_services_and_bounded() -> None:
    down = "The following device(s) have shut down:\n> a\n> b\n"
    assert text(["a", "b"], []) == down
    assert text(["a", "b"], ["c"]) == f"{down}The following device(s) are back:\n> c\n"
    longest = [f"{number:036}" for number in range(10_000)]
    shown = text(longest, longest)
    assert shown.count("> ") == NAMES
    assert "and 9,980 more\n" in shown
    assert "and 10,000 more\n" in shown
    assert len(shown) <= 1_000


def test_posts_are_bounded_in_time() -> None:
    assert report.POST_S <= 10
