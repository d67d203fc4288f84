"""What ends a task: a refusal of its credentials. A network that is half dead does not."""

from __future__ import annotations

import asyncio
import base64
from functools import partial

import nats.errors
from nats.aio.client import Client

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ACCOUNT
from service.contracts.stream import STREAM
from tests.support.network import network
from tests.support.world import World, complaint, eventually


async def serves(client: Client) -> bool:
    """Whether a request is answered. The log may say that the connection is restored before the server has each SUB."""
    try:
        reply = await client.request("customer.balance", b'{"client_id":"1"}', timeout=5)
    except nats.errors.NoRespondersError:
        return False
    return reply.data.startswith(b'{"balance":')


async def test_a_network_that_stalls_is_no_refusal(world: World) -> None:
    """The server ends connections whose CONNECT does not arrive, and calls that an authentication timeout."""
    async with network(world.nats_url) as (between, url):
        between.last_words = [b"-ERR 'Authentication Timeout'\r\n"]
        async with world.task(NATS_URL=url) as task, world.client() as client:
            assert not between.last_words, "it is no refusal at the start"
            between.last_words = [b"-ERR 'Authentication Timeout'\r\n"] * 3
            async with between.cut():
                pass
            await eventually(lambda: "NATS connection restored" in task.child.log.read_text())
            assert not between.last_words
            await eventually(partial(serves, client), what="an answer")
        assert "refuses" not in task.child.log.read_text()


async def test_a_server_that_says_something_else_before_its_pong_is_asked_again(world: World) -> None:
    async with network(world.nats_url) as (between, url), world.task(NATS_URL=url) as task, world.client() as client:
        between.last_words = [b"PING\r\n", b"+OK\r\n", b"INFO {}\r\n"]
        async with between.cut():
            pass
        await eventually(lambda: "NATS connection restored" in task.child.log.read_text())
        assert not between.last_words
        await eventually(partial(serves, client), what="an answer")


async def test_a_task_that_is_refused_on_a_new_connection_waits_for_nothing(world: World) -> None:
    """Its event cannot be stored any more: nothing is flushed on a connection that does not come back."""
    key = Key.user()
    token = claims.user_jwt(ACCOUNT.user("service"), key.public, world.account, account=world.account.public)
    creds = base64.b64encode(claims.creds_file(token, key).encode()).decode()
    async with (
        network(world.nats_url) as (between, url),
        world.task(NATS_URL=url, NATS_CREDENTIALS=creds, SHUTDOWN_TIMEOUT="100") as task,
    ):
        async with world.administrator() as admin, world.client() as client:
            await admin.delete_stream(STREAM)
            await client.request("customer.balance", b'{"client_id":"1"}', timeout=5)
        await eventually(lambda: "events are waiting" in task.child.log.read_text())
        async with between.cut():
            await world.push(revoked={key.public: 2**31})
        async with asyncio.timeout(30):
            assert await task.child.wait() == 1
        line = complaint(task.child.log.read_text())
    assert "refuses the credentials" in line
    assert "0 requests unanswered, 1 events unacknowledged" in line
