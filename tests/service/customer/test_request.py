"""A request has one reply, and is told whether it left."""

from __future__ import annotations

from nats.aio.client import Client
from nats.aio.msg import Msg

from service.customer.errors import BadRequest
from service.customer.request import OK, REPLY_LOST, Request
from service.runtime.nats_client import NatsClient
from service.runtime.tracing import NoTracing


def make(reply: str = "_INBOX.x") -> tuple[Request, NatsClient, list[tuple[str, str]]]:
    """A request over a client that is not connected: it keeps what is to be written."""
    client, done = NatsClient(lambda _: None, lambda: None), list[tuple[str, str]]()
    msg = Msg(client, "customer.balance", reply, b"payload")
    return Request(client, msg, NoTracing(), lambda _, outcome, error: done.append((outcome, error))), client, done


async def test_the_first_reply_is_the_only_one() -> None:
    request, client, done = make()
    assert request.data == b"payload"
    assert await request.respond(b"one") is True
    assert await request.respond(b"two") is False
    await request.refuse(BadRequest("three"))
    assert b"".join(client._pending) == b"PUB _INBOX.x  3\r\none\r\n"
    assert done == [(OK, "")]
    assert not request.reply_lost


async def test_a_refusal_is_a_reply() -> None:
    request, client, done = make()
    await request.refuse(BadRequest("no"))
    await request.refuse(BadRequest("again"))
    assert await request.respond(b"late") is False
    written = b"".join(client._pending)
    assert written.count(b"HPUB ") == written.count(b"Nats-Service-Error-Code: 403\r\n") == 1
    assert written.endswith(b'{"error":"no"}\r\n')
    assert done == [("BAD_REQUEST", "403:BAD_REQUEST")]


async def test_a_reply_that_the_connection_does_not_take_is_lost_and_told() -> None:
    request, client, done = make()
    client._status = Client.CLOSED
    assert await request.respond(b"one") is False
    assert request.reply_lost
    assert done == [(REPLY_LOST, "")]


async def test_a_reply_to_no_inbox_is_sent_nowhere() -> None:
    for reply in ("", "customer.balance.1", "_INBOX_service.x"):
        request, client, done = make(reply)
        assert await request.respond(b"one") is False
        assert client._pending == []
        assert not request.reply_lost
        assert done == [(REPLY_LOST, "")]
