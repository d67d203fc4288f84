"""The Go peer: built where Go is, left out where it is not, and it keeps the contract that it is compared by."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from nats.micro.request import ERROR_CODE_HEADER

from benchmark.peers import go as peer
from local.process import running
from service.contracts import customer as contract
from service.contracts.stream import EVENT_PREFIX, STREAM
from tests.support.world import World, statistics


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Alone on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


async def test_without_go_it_is_left_out(path: Path) -> None:
    assert await peer.build(path / "log") == "Go is not installed"


async def test_what_go_says_is_why_it_is_left_out(path: Path) -> None:
    go = path / "go"
    go.touch(0o755)
    go.write_text("#!/bin/sh\necho 'main.go:3:1: no such module'\nexit 1\n")
    assert await peer.build(path / "log") == "go build failed: main.go:3:1: no such module"


async def test_it_answers_as_the_service_does_and_stores_what_it_answered(world: World, tmp_path: Path) -> None:
    if why := await peer.build(tmp_path / "go.log"):
        pytest.skip(why)
    world.put_rows({"7": 70, "ü": -8})
    world.put_item({"id": {"S": "odd"}, "client_balance": {"N": "1.5"}})
    env = world.service_env()
    async with running("peer", [str(peer.BINARY)], tmp_path / "peer.log", env) as child, world.client() as client:

        async def serving() -> bool:
            return "serving" in child.log.read_text()

        await child.until(serving)
        asked = {
            b'{"client_id":"7"}': (b'{"balance":70}', None), '{"client_id": "ü"}'.encode(): (b'{"balance":-8}', None),
            b'{"client_id":"8"}': (b'{"error":"no such client"}', "404"), b'{"client_id":"a.b"}': (None, "403"),
            b'{"client_id":': (None, "403"), b"{}": (None, "403"), b'{"client_id":"odd"}': (None, "500"),
        }  # fmt: skip
        answers = await asyncio.gather(*(client.request(contract.SUBJECT, each, timeout=10) for each in asked))
        for answer, (body, code) in zip(answers, asked.values(), strict=True):
            assert (answer.headers or {}).get(ERROR_CODE_HEADER) == code
            assert body in {None, answer.data}
        (answer,) = await statistics(client, 1)
        assert answer["endpoints"][0]["num_requests"] == len(asked)
        many = [client.request(contract.SUBJECT, b'{"client_id":"7"}', timeout=10) for _ in range(300)]
        answers = await asyncio.gather(*many)
        assert {answer.data for answer in answers} == {b'{"balance":70}'}
        child.signal(signal.SIGTERM)
        assert await child.wait() == 0
    assert await world.last_sequence() == 302
    async with world.administrator() as admin:
        event = await admin.get_msg(STREAM, 302)
    assert (event.subject, event.data) == (f"{EVENT_PREFIX}7", b'{"balance":70}')
    assert (event.headers or {})["Nats-Msg-Id"]


async def test_it_answers_when_there_is_no_table(world: World, tmp_path: Path) -> None:
    if why := await peer.build(tmp_path / "go.log"):
        pytest.skip(why)
    env = world.service_env(AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:1")
    async with running("peer", [str(peer.BINARY)], tmp_path / "peer.log", env) as child, world.client() as client:

        async def serving() -> bool:
            return "serving" in child.log.read_text()

        await child.until(serving)
        answer = await client.request(contract.SUBJECT, b'{"client_id":"7"}', timeout=10)
        assert (answer.headers or {})[ERROR_CODE_HEADER] == "503"
