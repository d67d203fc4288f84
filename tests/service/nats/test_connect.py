"""The one way to connect: what ends an attempt, and what its error says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from local.process import claim_port
from service.nats.client import NatsClient
from service.nats.connect import NotConnectedError, connect, connected
from tests.support.nats.plain import plain_server

USERS = 'authorization { user: "a", password: "right" }'
LONG_S = 600


def closed() -> str:
    return f"nats://a:secret@127.0.0.1:{claim_port(0, '')}"


@pytest.mark.parametrize("reconnects", [True, False])
async def test_a_refusal_ends_the_attempt_at_once(tmp_path: Path, *, reconnects: bool) -> None:
    async with plain_server(tmp_path, USERS) as port, asyncio.timeout(LONG_S / 10):
        servers = [closed(), f"nats://a:wrong@127.0.0.1:{port}"]
        with pytest.raises(RuntimeError, match=r"^nats://127.0.0.1:\d+,nats://127.0.0.1:\d+ says Authorization"):
            async with connected(servers, None, _told, within_s=LONG_S, reconnects=reconnects):
                pass


async def test_without_reconnects_each_server_is_tried_once(tmp_path: Path) -> None:
    async with plain_server(tmp_path, USERS) as port, asyncio.timeout(LONG_S / 10):
        with pytest.raises(RuntimeError, match="Connect"):
            async with connected(closed(), None, _told, within_s=LONG_S, reconnects=False):
                pass
        servers = f"{closed()},nats://a:right@127.0.0.1:{port}"
        async with connected(servers, None, _told, within_s=LONG_S, reconnects=False) as nc:
            assert nc.is_connected


async def test_a_caller_that_gives_up_leaves_no_attempt() -> None:
    nc, before = NatsClient(), asyncio.all_tasks()
    attempt = asyncio.create_task(connect(nc, closed(), None, within_s=LONG_S, reconnects=True))
    while len(asyncio.all_tasks() - before) < 2:
        await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
    assert asyncio.all_tasks() <= before, "a task of an earlier test may end meanwhile"
    await nc.close()


def _told(error: NotConnectedError) -> Exception:
    return RuntimeError(f"{error.servers} says {error}")
