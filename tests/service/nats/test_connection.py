"""The connection opens or says why not, comes back by itself, and tells once when it is lost for good."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from structlog.testing import capture_logs

from local.process import claim_port
from service.contracts.customer import INBOX_PREFIX
from service.nats import connection as module
from service.nats.connect import text as text_of
from service.nats.connection import Connection, Timing, confirm, roundtrip
from service.nats.settings import NatsSettings
from service.runtime.errors import ServiceError
from service.runtime.role import Skipped
from tests.support.own_servers import own_server
from tests.support.world import World, eventually

REFUSED = nats.errors.Error("nats: 'Authorization Violation'")
FORBIDDEN = nats.errors.Error("nats: 'Permissions Violation for Publish to \"a\"'")


class Lost(list[ServiceError]):
    """What the owner of a connection was told."""


def make(url: str, creds: str | None = None, *, timing: Timing = Timing()) -> tuple[Connection, Lost]:
    given = base64.b64encode(creds.encode()).decode() if creds else None
    settings = NatsSettings(nats_url=url, nats_credentials=given)  # type: ignore[arg-type]
    lost = Lost()
    made = Connection(settings, name="test", inbox_prefix=INBOX_PREFIX, on_lost=lost.append, timing=timing)
    return made, lost


@asynccontextmanager
async def opened(world: World) -> AsyncIterator[tuple[Connection, Lost]]:
    connection, lost = make(world.nats_url, world.creds("service"))
    await connection.open()
    try:
        yield connection, lost
    finally:
        await connection.close()


def events(logs: list[MutableMapping[str, Any]]) -> list[str]:
    return [line["event"] for line in logs if line["log_level"] != "debug"]


async def test_it_is_open_until_it_is_closed_and_reports_nothing(world: World) -> None:
    connection, lost = make(world.nats_url, world.creds("service"))
    with capture_logs() as logs:
        with pytest.raises(Skipped):
            _ = connection.jetstream
        connection._on_close()
        await connection.close()
        await connection.open()
        assert (await connection.jetstream.stream_info("customer-balances")).config.name == "customer-balances"
        assert connection.nc.new_inbox().startswith(f"{INBOX_PREFIX}.")
        await connection.close()
    assert connection.nc.is_closed
    assert lost == []
    assert events(logs) == []


async def test_a_close_that_fails_or_hangs_is_over_in_a_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        async with opened(world) as (connection, lost):

            async def fails_or_hangs(number: int = number) -> None:
                if number:
                    raise nats.errors.UnexpectedEOF
                await asyncio.sleep(60)

            with monkeypatch.context() as patched:
                patched.setattr(connection.nc, "close", fails_or_hangs)
                async with asyncio.timeout(10):
                    await connection.close()
            await connection.nc.close()
            assert lost == []


@pytest.mark.parametrize(("reason", "listens"), [(r"\[Errno 111\] Connect", False), ("no answer", True)])
async def test_without_a_server_it_says_what_it_met(reason: str, listens: bool) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    port = claim_port(0, "")
    server = await asyncio.start_server(silent, "127.0.0.1", port) if listens else None
    connection, lost = make(f"nats://127.0.0.1:{port}", timing=Timing(start_timeout_s=0.3))
    async with asyncio.timeout(10):
        with pytest.raises(ServiceError, match=rf"no NATS server at nats://127\.0\.0\.1:{port} \({reason}.*\)"):
            await connection.open()
    await connection.close()
    assert not [task for task in asyncio.all_tasks() if "connect" in str(task.get_coro())]
    assert lost == []
    if server:
        server.close()


async def test_credentials_that_the_server_refuses_are_said_at_once(world: World) -> None:
    connection, lost = make(world.nats_url)
    async with asyncio.timeout(5):
        with pytest.raises(ServiceError, match="refuses the credentials") as caught:
            await connection.open()
    await connection.close()
    assert "NATS_CREDENTIALS" in caught.value.remedy
    assert lost == []


async def test_what_servers_tell_while_opening_is_said_once(world: World) -> None:
    connection, lost = make(f"{world.nats_url},{world.nats_url.replace('127.0.0.1', 'localhost')}")
    with capture_logs() as logs, pytest.raises(ServiceError, match="refuses the credentials"):
        await connection.open()
    await connection.close()
    assert (lost, events(logs)) == ([], [])


async def test_one_refusal_is_waited_out_and_a_second_in_a_row_is_the_end_reported_once(world: World) -> None:
    """A server that restarts may not know the account yet."""
    async with opened(world) as (connection, lost):
        await connection._on_error(REFUSED)
        await connection._on_reconnect()
        await connection._on_error(REFUSED)
        await connection._on_error(FORBIDDEN)
        await connection._on_error(REFUSED)
        assert lost == []
        await connection._on_error(REFUSED)
        await connection._on_error(REFUSED)
        assert [error.problem for error in lost] == [
            f"NATS at {world.nats_url} refuses the credentials (Authorization Violation)"
        ]


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (None, "NATS closed the connection (permissions were odd)"),
        (nats.errors.Error("nats: 'User Authentication Expired'"), "NATS at {url} refuses the credentials"),
        (TimeoutError(), "NATS closed the connection (TimeoutError)"),
    ],
)
async def test_an_unexpected_close_is_reported_with_its_reason(
    world: World, reason: Exception | None, says: str
) -> None:
    async with opened(world) as (connection, lost):
        await connection._on_error(nats.errors.Error("nats: permissions were odd"))
        connection.nc._err = reason
        await connection.nc.close()
        assert [error.problem.startswith(says.format(url=world.nats_url)) for error in lost] == [True]


async def test_each_kind_of_error_is_in_the_log_once(world: World) -> None:
    module._errors._kinds.clear()
    async with opened(world) as (connection, _):
        with capture_logs() as logs:
            for error in (
                FORBIDDEN,
                nats.errors.Error('nats: Permissions Violation for Publish to "b"'),
                TimeoutError(),
            ):
                await connection._on_error(error)
    assert [line["error"] for line in logs if line["event"] == "NATS error"] == [
        'Permissions Violation for Publish to "a"',
        "TimeoutError",
    ]
    assert module._errors._kinds.keys() == {"permission", "TimeoutError"}


async def test_it_seeks_its_server_until_it_is_back(world: World, tmp_path: Path) -> None:
    async with own_server(world, tmp_path / "nats") as (own, server), opened(own) as (connection, lost):
        attempts: list[Exception] = []
        on_error = connection.nc._error_cb

        async def noted(error: Exception) -> None:
            attempts.append(error)
            await on_error(error)

        connection.nc._error_cb = noted
        with capture_logs() as logs:
            await server.stop()
            waiting = asyncio.create_task(confirm(connection.nc))
            await eventually(lambda: len(attempts) >= 4, what="attempts to reconnect")
            assert not waiting.done()
            await server.start()
            async with asyncio.timeout(10):
                await waiting
        assert events(logs).count("NATS connection lost") == events(logs).count("NATS connection restored") == 1
        (restored,) = [line for line in logs if line["event"] == "NATS connection restored"]
        assert restored["server"] == own.nats_url.removeprefix("nats://")
        await roundtrip(connection.nc)
        assert lost == []


async def test_a_confirmation_outlives_an_answer_that_does_not_come_and_ends_with_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(world) as (connection, _):
        flush, calls = connection.nc.flush, list[int]()

        async def late_once() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise nats.errors.TimeoutError
            await flush()

        monkeypatch.setattr(connection.nc, "flush", late_once)
        async with asyncio.timeout(10):
            await confirm(connection.nc)
        assert len(calls) == 3
        await connection.nc.close()
        async with asyncio.timeout(10):
            await confirm(connection.nc)
        assert len(calls) == 3


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (REFUSED, "Authorization Violation"),
        (nats.errors.Error("plain"), "plain"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_an_error_is_reported_in_the_servers_words_or_by_its_kind(error: Exception, text: str) -> None:
    assert text_of(error) == text
