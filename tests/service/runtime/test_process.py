"""What keeps a task from starting, or going on, is one line that names it and what mends it."""

from __future__ import annotations

import base64
import signal
import socket
from pathlib import Path

import pytest

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ACCOUNT
from service.contracts.customer import BUCKET
from service.contracts.stream import STREAM
from tests.support.own_servers import own_server
from tests.support.world import World, complaint, eventually, get, log_lines


def encoded(creds: str) -> str:
    return base64.b64encode(creds.encode()).decode()


async def test_a_missing_stream(world: World) -> None:
    async with world.administrator() as admin:
        await admin.delete_stream(STREAM)
    code, output = await world.run_to_end()
    assert code == 1
    assert complaint(output) == (
        "error: stream customer-balances does not exist; make it with `python -m control_plane create`"
    )


async def test_a_stream_without_the_events_subjects(world: World) -> None:
    async with world.administrator() as admin:
        config = (await admin.stream_info(STREAM)).config
        config.subjects = ["something.else"]
        await admin.update_stream(config)
    code, output = await world.run_to_end()
    assert code == 1
    assert "does not take customer.balance.*" in complaint(output)


async def test_a_missing_bucket(world: World) -> None:
    async with world.administrator() as admin:
        await admin.delete_key_value(BUCKET)
    code, output = await world.run_to_end()
    assert code == 1
    assert "KV bucket config does not exist; make it with" in complaint(output)


async def test_a_missing_table(world: World) -> None:
    code, output = await world.run_to_end(DDB_TABLE="not-there")
    assert code == 1
    assert "table not-there does not exist" in complaint(output)


async def test_a_missing_variable(world: World) -> None:
    code, output = await world.run_to_end(DDB_TABLE="")
    assert code == 1
    assert complaint(output) == "error: DDB_TABLE is not set; set it, for example DDB_TABLE=balances"


async def test_a_port_that_is_taken(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, output = await world.run_to_end(health_port=port)
    assert code == 1
    assert f"HEALTH_PORT {port} cannot be used (Address already in use)" in complaint(output)


@pytest.mark.parametrize("case", ["a stranger's", "expired", "none"])
async def test_credentials_that_the_server_does_not_take(world: World, case: str) -> None:
    service = ACCOUNT.user("service")
    creds = {
        "a stranger's": encoded(claims.mint_creds(service, Key.account(), account=world.account.public)),
        "expired": encoded(claims.mint_creds(service, world.account, account=world.account.public, expires_s=-60)),
        "none": "",
    }
    code, output = await world.run_to_end(NATS_CREDENTIALS=creds[case])
    assert code == 1
    line = complaint(output)
    assert f"NATS at {world.nats_url} refuses the credentials" in line
    assert "NATS_CREDENTIALS" in line


async def test_a_task_whose_credentials_are_revoked_ends_with_one_line(world: World) -> None:
    key = Key.user()
    token = claims.user_jwt(ACCOUNT.user("service"), key.public, world.account, account=world.account.public)
    async with world.task(NATS_CREDENTIALS=encoded(claims.creds_file(token, key))) as task:
        await world.push(revoked={"*": 0, key.public: 2**31})
        code = await task.child.wait()
        output = task.child.log.read_text()
    assert code == 1
    assert "refuses the credentials" in complaint(output)


async def test_after_a_fault_it_drains_and_counts_what_is_lost(world: World) -> None:
    key = Key.user()
    token = claims.user_jwt(ACCOUNT.user("service"), key.public, world.account, account=world.account.public)
    async with world.task(NATS_CREDENTIALS=encoded(claims.creds_file(token, key))) as task:
        async with world.administrator() as admin, world.client() as client:
            await admin.delete_stream(STREAM)
            reply = await client.request("customer.balance", b'{"client_id":"1"}', timeout=2)
            assert reply.data.startswith(b'{"balance":')
        await eventually(lambda: "events are waiting" in task.child.log.read_text())
        await world.push(revoked={"*": 0, key.public: 2**31})
        assert await task.child.wait() == 1
        line = complaint(task.child.log.read_text())
    assert "refuses the credentials" in line
    assert "0 requests unanswered, 1 events unacknowledged" in line


async def test_health_tells_the_truth_while_the_server_is_away(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with own_server(world, tmp_path_factory.mktemp("own")) as (own, server), own.task() as task:

        async def away() -> bool:
            status, body = await get(f"{task.health_url}/readyz")
            assert (await get(f"{task.health_url}/healthz"))[0] == 200, "it is alive, and says so"
            return status == 503 and "not connected" in body

        async def back() -> bool:
            return (await get(f"{task.health_url}/readyz"))[0] == 200

        await server.stop()
        await eventually(away)
        await server.start()
        await eventually(back, within_s=5)
        async with own.client() as client:
            reply = await client.request("customer.balance", b'{"client_id":"1"}', timeout=2)
            assert reply.data.startswith(b'{"balance":')
        task.child.signal(signal.SIGTERM)
        assert await task.child.wait() == 0
        events = [line["event"] for line in log_lines(task.child.log.read_text())]
        assert events.count("NATS connection lost") == events.count("NATS connection restored") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_starting_ends_it_cleanly(world: World, number: signal.Signals) -> None:
    async with world.launch(NATS_URL="nats://127.0.0.1:9") as task:
        await eventually(lambda: handles(task.child.pid, signal.SIGTERM), what="the signal's handler")
        task.child.signal(number)
        assert await task.child.wait() == 0


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process catches a signal; else the default would end it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (number - 1))
