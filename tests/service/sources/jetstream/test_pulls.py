"""How a pull ends: by what came, and by what the server says of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from service.nats.client import NatsClient
from service.nats.parser import RawMessage, Read
from service.sources.jetstream.message import delivered
from service.sources.jetstream.pulls import _Slot


def read(messages: Sequence[RawMessage]) -> Read:
    """Of subjects, replies, payloads and header blocks."""
    subjects, replies, payloads, headers = zip(
        *[[part.decode("latin-1") for part in message] for message in messages], strict=True
    )
    return Read(["1"] * len(messages), replies, headers, payloads, subjects)


@pytest.mark.parametrize(
    ("status", "messages"),
    [
        (b"409 Batch Completed\r\nNats-Pending-Messages: 0\r\nNats-Pending-Bytes: 9", 3),
        (b"409 Message Size Exceeds MaxBytes\r\nNats-Pending-Messages: 1\r\nNats-Pending-Bytes: 9", 2),
        (b"408 Request Timeout\r\nNats-Pending-Messages: 3\r\nNats-Pending-Bytes: 9", 0),
        (b"404 No Messages", 0),
        (b"503", 0),
    ],
)
async def test_a_status_that_overtakes_its_messages_ends_a_pull_when_they_have_come(
    status: bytes, messages: int
) -> None:
    """With replicas a message waits for the other servers, its pull's status does not."""
    slot = _Slot(NatsClient(lambda _: None, lambda: None), lambda _: None, lambda _: False)
    pull = slot.begin(3)
    slot._on_messages(read([(pull.inbox, b"", b"", b"NATS/1.0 " + status + b"\r\n\r\n")]))
    for number in range(1, messages + 1):
        assert not pull.done.done()
        slot._on_messages(read([(b"a.b", b"$JS.ACK.s.c.1.%d.%d.1700000000000000000.0" % (number, number), b"{}", b"")]))
    assert pull.done.done()
    assert pull.ended
    assert len(pull.messages) == messages


async def test_a_pull_is_given_no_more_than_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another one, overtaken by a status without a count."""
    given_back: list[str] = []
    monkeypatch.setattr(NatsClient, "post_each", lambda _, handles, payload: given_back.extend(handles))
    slot = _Slot(NatsClient(lambda _: None, lambda: None), lambda _: None, lambda _: False)
    pull = slot.begin(2)
    replies = [b"$JS.ACK.s.c.1.%d.%d.1700000000000000000.0" % (number, number) for number in range(1, 5)]
    slot._on_messages(read([(b"a.b", reply, b"{}", b"") for reply in replies[:3]]))
    slot._on_messages(read([(b"a.b", reply, b"{}", b"") for reply in replies[3:]]))
    assert [message.sequence for message in delivered(pull.messages, 1, 0)] == [1, 2]
    assert given_back == [reply.decode() for reply in replies[2:]]


async def test_a_message_that_is_no_delivery_does_not_cost_its_neighbours() -> None:
    nc = NatsClient(lambda _: None, lambda: None)
    slot = _Slot(nc, lambda _: None, lambda _: False)
    pull = slot.begin(3)
    replies = [b"$JS.ACK.s.c.1.1.1.1700000000000000000.0", b"_INBOX.x", b"$JS.ACK.s.c.1.2.2.1700000000000000000.0"]
    slot._on_messages(read([(b"a.b", reply, b"{}", b"") for reply in replies]))
    assert [message.sequence for message in delivered(pull.messages, 1, 0)] == [1, 2]
    assert nc.undecodable == 1
