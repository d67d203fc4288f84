"""The live page, in a real browser and by scripts; and who may not use it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import aiohttp
import psutil
import pytest

from benchmark.errors import BenchmarkError
from benchmark.load.job import NatsTarget
from benchmark.load.totals import Second
from benchmark.plan import Plan
from benchmark.web import live as lives
from benchmark.web.live import Controls, Live
from benchmark.web.permitted import check_permitted
from benchmark.web.server import UNREAD, Page, serving
from tests.support.browser import browser
from tests.support.processes import family
from tests.support.world import World, eventually

FIGURE = "Number([...document.querySelectorAll('#figures div')].find(box => box.innerText.startsWith('{}')).querySelector('dd').innerText.replace(/[^0-9.]/g, ''))"  # noqa: E501
INK = "(() => {{ const c = document.querySelector('#{} canvas'); return c.toDataURL(); }})()"


def plan(world: World, user: str = "client") -> Plan:
    target = NatsTarget(servers=[world.nats_url], creds=world.creds(user))
    return Plan(target, target, 2.0, 1000, None, 2, None, {})


async def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.request(method, url, headers=headers) as response:
        return response.status, await response.json()


def generators() -> list[psutil.Process]:
    return [child for child, command in family(os.getpid()) if "benchmark.load.generator" in command]


@asynccontextmanager
async def started(plan: Plan, rate: float, **controls: Any) -> AsyncIterator[Live]:
    live = Live(plan)
    try:
        await live.start(Controls(rate, **controls))
        yield live
    finally:
        await live.stop()


async def test_a_person_sets_a_rate_sees_it_and_stops(world: World) -> None:
    async with world.task(), world.task(), serving(plan(world), 0) as address, browser() as tab:
        await tab.open(address, width=1000)
        await tab.until("document.querySelectorAll('#tasks tr').length === 2")
        empty = await tab.run(INK.format("rates"))
        # By keyboard alone: the first field is the slider, the second the number, and Enter sends the form.
        await tab.press("Tab", 9)
        assert await tab.run("document.activeElement.id") == "slider"
        await tab.press("ArrowRight", 39)
        await tab.until("Number(document.querySelector('#rate').value) > 100")
        await tab.press("Tab", 9)
        assert await tab.run("document.activeElement.id") == "rate"
        await tab.run("document.activeElement.select()")
        await tab.call("Input.insertText", text="160")
        await tab.press("Enter", 13, "\r")
        await tab.until("document.querySelector('#state').innerText === 'running'")
        await tab.until(f"{FIGURE.format('answered')} === 160")
        await tab.until(f"{FIGURE.format('p99')} > 0")
        await tab.until(
            "[...document.querySelectorAll('#tasks tr')].reduce((sum, row) => sum + +row.cells[1].innerText, 0) > 100"
        )
        assert re.fullmatch(r"[0-9.]+ %", await tab.run("document.querySelector('#tasks tr').cells[3].innerText"))
        drawn = await tab.run(INK.format("rates"))
        assert drawn != empty
        await tab.until(f"{INK.format('latencies')} !== {await tab.run(INK.format('latencies'))!r}")
        await tab.open(address, width=400, dark=True)
        await tab.until("document.querySelector('#rate').value === '160'")
        assert await tab.run("document.documentElement.scrollWidth") == 400
        dark = await tab.run("getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(17, 24, 39)"
        await tab.run("document.querySelector('#stop').click()")
        await tab.until("document.querySelector('#state').innerText === 'stopped'")
        assert (await ask(f"{address}/status"))[1]["in_flight"] == 0
        assert not generators()
        assert tab.problems == []
        assert {url for url in tab.requests if not url.startswith((address, "data:"))} == set()


async def test_scripts_drive_it_too(world: World) -> None:
    async with world.task(), serving(plan(world, "registrar"), 0) as address:
        query = "rate=200&mix=balance=50,get=30,create=20&poisson=true&processes=2"
        code, status = await ask(f"{address}/start?{query}", "POST")
        assert (code, status["running"], status["mix"]) == (200, True, "balance=50,get=30,create=20")

        async def answered() -> bool:
            return int((await ask(f"{address}/status"))[1]["replies"]) > 250

        await eventually(answered, within_s=20)
        _, status = await ask(f"{address}/status")
        assert (status["errors"], status["processes"], status["poisson"]) == ({}, 2, True)
        async with aiohttp.ClientSession() as http, http.get(f"{address}/metrics") as response:
            metrics = await response.text()
        assert "\nload_target_rate 200.0\n" in metrics
        code, status = await ask(f"{address}/stop", "POST")
        assert (code, status["running"]) == (200, False)
        assert status["sent"] == status["replies"] > 250
    assert not generators()


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("rate=0", "rate must be 1 to"), ("rate=nan", "rate must be"), ("rate=fast", "are numbers"),
        ("rate=5&mix=balances=1", "names: balance, get, create"), ("rate=5&processes=65", "processes must be"),
        ("rate=5&poisson=perhaps", "poisson is true or false"), ("rate=5&duration=5", "duration: there are rate"),
    ],
)  # fmt: skip
async def test_a_wish_that_makes_no_sense(query: str, problem: str, world: World) -> None:
    async with serving(plan(world), 0) as address:
        code, said = await ask(f"{address}/start?{query}", "POST")
        assert code == 400
        assert problem in said["error"]
        assert not (await ask(f"{address}/status"))[1]["running"]


async def test_another_page_can_neither_start_a_load_nor_read(world: World) -> None:
    async with serving(plan(world), 0) as address:
        start = f"{address}/start?rate=5"
        port = address.rpartition(":")[2]
        for headers in (
            {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": f"http://localhost:{port}"},
            {"Sec-Fetch-Site": "cross-site"},
        ):  # fmt: skip
            assert (await ask(start, "POST", **headers))[0] == 403
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{int(port) - 1}"):
            assert (await ask(f"{address}/status", Host=name))[0] == 421, "a name that was made to point here"
            assert (await ask(start, "POST", Host=name, Origin=f"http://{name}"))[0] == 421
        async with aiohttp.ClientSession() as http, http.get(start) as response:
            assert response.status == 405
        assert not (await ask(f"{address}/status"))[1]["running"]
        addresses = [each.laddr.ip for each in psutil.Process().net_connections() if each.status == "LISTEN"
                     and each.laddr.port == int(port)]  # fmt: skip
        assert addresses == ["127.0.0.1"]
        assert (await ask(start, "POST", Origin=address))[0] == 200


async def test_processes_are_added_when_the_rate_is_not_given(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    busy = 50.0
    monkeypatch.setattr(psutil, "cpu_percent", lambda: busy)
    short = Second(0, sent=50)
    async with started(plan(world), 100) as live:
        await live.judge(short)
        await live.judge(Second(1, sent=99))
        await live.judge(short)
        assert (live.processes, live.note) == (1, ""), "one bad second in between is none"
        await live.judge(short)
        assert len(generators()) == live.processes == 2
        sent = live.totals.sent
        await eventually(lambda: live.totals.sent >= sent + 100)
        for _ in range(lives.PATIENCE):
            await live.judge(short)
        assert live.note == "the machine is the limit: 50% of 2 cores are in use"
        await live.judge(Second(9, sent=100))
        assert live.note == ""
        assert live.processes == 2
    busy = 100.0
    async with started(plan(world), 100) as live:
        for _ in range(lives.PATIENCE):
            await live.judge(short)
        assert (live.processes, live.note) == (1, "the machine is the limit: 100% of 2 cores are in use")
    async with started(plan(world), 100, processes=1) as live:
        for _ in range(lives.PATIENCE):
            await live.judge(short)
        assert live.note.startswith("1 processes cannot give this rate")
    assert not generators()


async def test_a_rate_is_changed_while_it_runs(world: World) -> None:
    async with world.task(), started(plan(world), 1) as live:
        await live.start(Controls(400.0, processes=2))
        await eventually(lambda: live.totals.sent > 400)
        await live.start(Controls(20.0, processes=1))
        assert len(generators()) <= 2
        before = len(live.totals.timeline)
        await eventually(lambda: len(live.totals.timeline) > before + 2)
        assert live.totals.timeline[-1].sent in range(18, 23)
        assert not live.totals.errors
    assert live.totals.sent == live.totals.replies


async def test_what_the_user_may_not_do_is_refused_at_the_start(world: World) -> None:
    async with world.task(), serving(plan(world), 0) as address:
        assert (await ask(f"{address}/start?rate=50", "POST"))[0] == 200
        status, body = await ask(f"{address}/start?rate=50&mix=balance=1,create=1", "POST")
        remedy = "give those of a user that may, or another --mix"
        assert (status, body) == (400, {"error": f"these credentials may not send customer.create; {remedy}"})
        status, body = await ask(f"{address}/status")
        assert (body["running"], body["mix"]) == (True, "balance=1"), "the load before it goes on"
        clients = len(world.rows())
    assert clients == 1000
    assert not generators()


async def test_a_user_who_may_create_is_not_refused_and_the_question_creates_nothing(world: World) -> None:
    async with world.task():
        before = world.rows()
        await check_permitted(plan(world, "registrar").target, ["balance", "get", "create"])
        assert world.rows() == before


async def test_a_port_that_is_taken(world: World) -> None:
    async with serving(plan(world), 0) as address:
        with pytest.raises(BenchmarkError, match="give another --port"):
            async with serving(plan(world), int(address.rpartition(":")[2])):
                await asyncio.sleep(0)


async def test_a_tab_that_does_not_read_is_kept_no_more_than_the_newest_states(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(Mock())
    numbers = iter(range(1000))
    monkeypatch.setattr(page, "status", lambda: {"number": next(numbers)})
    unread: asyncio.Queue[dict[str, Any]] = asyncio.Queue(UNREAD)
    page._watchers.add(unread)
    for _ in range(1000):
        page.tell()
    assert (unread.qsize(), unread.get_nowait()) == (UNREAD, {"number": 1000 - UNREAD})
