"""Calls to the API: waits that are told and end, answers that are none, tokens that reach no message."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
from aiohttp import web
from tenacity import wait_none

from control_plane.errors import ProvisioningError, UsageError
from control_plane.synadia import api as synadia_api
from local.process import ROOT
from tests.control_plane.conftest import Program
from tests.support.synadia.fake import TOKEN, FakeSynadia, fake_synadia, refused
from tests.support.world import eventually

TEAMS = "/core/beta/teams"


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeSynadia]:
    monkeypatch.setattr(synadia_api, "_backoff", wait_none())
    async with fake_synadia() as fake:
        yield fake


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have waited; it does not."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(synadia_api, "_sleep", sleep)
    return waits


def busy(retry_after: str, **headers: str) -> web.Response:
    return web.json_response({"message": "slow down"}, status=429, headers={"Retry-After": retry_after, **headers})


async def test_it_waits_as_long_as_it_is_reported(fake: FakeSynadia, slept: list[float]) -> None:
    said: list[str] = []
    server_s = time.time() - 7200  # a clock of its own
    fake.answer_with = [
        busy("7"),
        busy(formatdate(server_s + 30, usegmt=True), Date=formatdate(server_s, usegmt=True)),
        busy("1"),
        busy("nonsense"),
    ]
    async with synadia_api.connect(TOKEN, fake.url, said.append) as api:
        await api.items(TEAMS)
    assert slept == [7.0, 30.0, 1.0, 0.0]
    assert said == [f"waiting {seconds} s for 127.0.0.1: it says 429" for seconds in (7, 30)]


@pytest.mark.parametrize("retry_after", ["3600", formatdate(time.time() + 3990, usegmt=True)], ids=["seconds", "date"])
async def test_a_wait_that_is_too_long_is_said_at_once(fake: FakeSynadia, slept: list[float], retry_after: str) -> None:
    fake.answer_with = [busy(retry_after)]
    async with synadia_api.connect(TOKEN, fake.url) as api:
        with pytest.raises(ProvisioningError, match=r"slow down; it asks to come back in 3\d\d\d s; run it again"):
            await api.items(TEAMS)
    assert slept == []


async def test_ctrl_c_ends_a_wait() -> None:
    async with fake_synadia() as fake:
        fake.answer_with = [busy("50")]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "control_plane", "--api", fake.url, "list", cwd=ROOT,
            env={**os.environ, "SYNADIA_TOKEN": TOKEN}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            # A shell's background job ignores it, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert process.stderr
        assert await process.stderr.readline() == b"waiting 50 s for 127.0.0.1: it says 429\n"
        process.send_signal(signal.SIGINT)
        _, error = await asyncio.wait_for(process.communicate(), 5)
        assert process.returncode
        assert b"Traceback" not in error


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(text='{"items": [', content_type="application/json"),
        web.Response(text="<html>sign in</html>", content_type="text/html"),
        web.json_response({}),
        web.json_response([]),
        web.json_response({"items": {}}),
        web.json_response({"items": [1]}),
        web.json_response({"items": [{}]}),
        web.Response(status=302, headers={"Location": "/login"}),
        web.Response(status=404, text="404 page not found"),
    ],
    ids=["truncated", "html", "nothing", "a list", "no list", "no objects", "an empty object", "elsewhere", "no path"],
)
async def test_an_invalid_answer_is_one_line(program: Program, answer: web.Response) -> None:
    program.fake.answer_with = [answer]
    code, _, error = await program("status")
    assert code == 1
    assert error.count("\n") == 1
    assert "--api" in error


@pytest.mark.parametrize("number", range(6))
async def test_an_empty_object_at_any_call_is_one_line(program: Program, number: int) -> None:
    """Also for what was asked after the first."""
    await program("create")
    fake = program.fake
    fake.calls.clear()
    fake.intercept = lambda call: web.json_response({"items": [{}]} if number % 2 else {}) if call == number else None
    code, _, error = await program("status")
    fake.intercept = None
    assert code in {1, 3}
    assert error.count("\n") == (1 if code == 1 else 0)


@pytest.mark.parametrize("token", ["one\ntwo", "uat_\u00e9", "two words", "", "\x00"])
async def test_an_invalid_token_is_in_no_message(token: str) -> None:
    with pytest.raises(UsageError, match=r"^the personal access token is not one line of plain characters"):
        async with synadia_api.connect(token):
            pass


async def test_a_token_that_the_server_repeats_is_in_no_message(fake: FakeSynadia) -> None:
    fake.answer_with = [refused(400, f"bad header Authorization: Bearer {TOKEN}")]
    async with synadia_api.connect(TOKEN, fake.url) as api:
        with pytest.raises(ProvisioningError, match=r"Bearer \(the token\)"):
            await api.items(TEAMS)


@asynccontextmanager
async def hanging_up(answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[tuple[str, list[int]]]:
    taken = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken[0] += 1
        await reader.readuntil(b"\r\n\r\n")
        await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api", taken


async def test_a_connection_that_is_lost_is_not_one_that_cannot_be_made(
    slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
        await writer.drain()

    lost = r"^the connection to 127\.0\.0\.1 was lost \(peer .*\); run it again"
    monkeypatch.setattr(synadia_api, "_backoff", wait_none())
    async with hanging_up(half) as (url, taken), synadia_api.connect(TOKEN, url) as api:
        with pytest.raises(ProvisioningError, match=lost):
            await api.items(TEAMS)
        assert taken == [synadia_api.ATTEMPTS], "what was only read is read again"
        assert slept == [0.0] * (synadia_api.ATTEMPTS - 1), "as the backoff says: nobody asked for a wait"
        with pytest.raises(ProvisioningError, match="was lost"):
            await api.post("/core/beta/systems/x/accounts", {})
        assert taken == [synadia_api.ATTEMPTS + 1], "what may have been made is not made again"


async def test_a_slow_answer_is_reported(fake: FakeSynadia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synadia_api, "SILENT_S", 0.01)
    said: list[str] = []

    async def slow(writer: asyncio.StreamWriter) -> None:
        await eventually(lambda: bool(said))
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"items":[]}')
        await writer.drain()

    async with hanging_up(slow) as (url, _), synadia_api.connect(TOKEN, url, said.append) as api:
        assert await api.items(TEAMS) == []
    assert said == ["waiting for 127.0.0.1 to answer"]


@pytest.mark.parametrize(
    "address", ["cloud.synadia.com/api", "http://", "ftp://x/api", "http://x:y/api", "http://[::1/api"]
)
async def test_an_invalid_address_is_not_tried(address: str) -> None:
    with pytest.raises(UsageError, match="is not an address; it looks like https://"):
        async with synadia_api.connect(TOKEN, address):
            pass


async def test_an_address_needs_no_port() -> None:
    async with synadia_api.connect(TOKEN):
        pass


@asynccontextmanager
async def answering(*statuses: int) -> AsyncIterator[tuple[synadia_api.Api, list[str]]]:
    """An API that answers with these in turn, the last one from then on; and the calls it was sent."""
    left, calls = list(statuses), list[str]()

    async def answer(request: web.Request) -> web.Response:
        calls.append(request.method)
        return web.json_response({"id": "1"}, status=left.pop(0) if len(left) > 1 else left[0])

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with synadia_api.connect("token", f"http://127.0.0.1:{runner.addresses[0][1]}") as api:
            yield api, calls
    finally:
        await runner.cleanup()


async def test_what_is_not_there_may_be_looked_for_and_deleted() -> None:
    async with answering(404) as (api, _):
        assert await api.find("/x") is None
        await api.delete("/x")
        with pytest.raises(ProvisioningError, match="Synadia says 404"):
            await api.get("/x")
    async with answering(409) as (api, _):
        for call in (api.find("/x"), api.delete("/x")):
            with pytest.raises(ProvisioningError, match="Synadia says 409"):
                await call
    async with answering(200) as (api, _):
        assert await api.find("/x") == {"id": "1"}


@pytest.mark.parametrize(("status", "sent"), [(503, 1), (500, 1), (429, 2)])
async def test_what_may_have_been_made_is_not_made_again(
    monkeypatch: pytest.MonkeyPatch, status: int, sent: int
) -> None:
    """Only 429 says for certain that nothing was done."""
    monkeypatch.setattr(synadia_api, "_backoff", wait_none())
    async with answering(status, 200) as (api, calls):
        with contextlib.suppress(ProvisioningError):
            await api.post("/x")
        assert calls == ["POST"] * sent
    async with answering(status, 200) as (api, calls):
        with contextlib.suppress(ProvisioningError):
            await api.order("/x")
        assert calls == ["POST"] * sent
    async with answering(status, 200) as (api, calls):
        assert await api.get("/x") == {"id": "1"}
        assert calls == ["GET"] * 2
