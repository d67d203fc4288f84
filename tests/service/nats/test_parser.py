"""Messages are those that nats-py's own parser finds, from whatever bytes, however the reads cut them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol import parser as upstream

from service.nats import parser as nats_parser
from service.nats.parser import Callback, Parser, RawMessage, Read, raw

OWN, GRANTED, TAKEN = 1, 7, 8
"""The first is nats-py's; two sids have one callback, as grants of one subject have."""


class Connection:
    """Stands in for the client, to see what a parser finds, in order."""

    def __init__(self) -> None:
        self.stats = {"in_msgs": 0, "in_bytes": 0}
        self.found: list[tuple[int, RawMessage]] = []
        self.lines: list[str] = []
        self.reads: list[int] = []
        self.failures = 0

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.found.append((sid, (subject, reply, data, headers or b"")))

    async def _process_ping(self) -> None:
        self.lines.append("PING")

    async def _process_pong(self) -> None:
        self.lines.append("PONG")

    async def _process_info(self, info: object) -> None:
        self.lines.append("INFO")

    async def _process_err(self, error: str) -> None:
        self.lines.append(error)

    def take(self, read: Read) -> None:
        self.reads.append(len(read.sids))
        self.found += zip(map(int, read.sids), raw(read), strict=True)

    def fail(self, _: Exception) -> None:
        self.failures += 1


def ours() -> tuple[Parser, Connection]:
    connection = Connection()
    callbacks = {str(sid): connection.take for sid in (GRANTED, TAKEN)}
    return Parser(connection, callbacks, connection.fail), connection


def frame(sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    words = b" ".join(filter(None, [subject, b"%d" % sid, reply]))
    if headers:
        return b"HMSG %b %d %d\r\n%b%b\r\n" % (words, len(headers), len(headers) + len(payload), headers, payload)
    return b"MSG %b %d\r\n%b\r\n" % (words, len(payload), payload)


async def found_by_nats_py(wire: bytes) -> Connection:
    connection = Connection()
    await upstream.Parser(connection).parse(wire)
    return connection


async def feed(parser: Parser, wire: bytes, cuts: Sequence[int]) -> None:
    start = 0
    for cut in [*cuts, len(wire)]:
        await parser.parse(wire[start : start + cut])
        start += cut


word = st.binary(min_size=1, max_size=12).map(lambda word: word.translate(None, b" \t\r\n\v\f")).filter(bool)
usual_word = st.from_regex(rb"\A[a-zA-Z0-9_.]{1,12}\Z")
forged = st.sampled_from([
    b"x\r\nMSG a 7 1\r\nx", b"\r\n", b"MSG a 7 r 3\r\nabc\r\n", b"PING\r\n",
    b"\r\nHMSG a 7 r 12 12\r\nNATS/1.0\r\n\r\n", b"HMSG a 7 1 2\r\n", b'{"client_id":"1"}\r\n\r\n',
    b"+OK\r\n-ERR 'x'\r\n", b"\n", b"\r", b"5 6\r\n",
])  # fmt: skip
header = st.sampled_from([
    b"NATS/1.0\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0\r\ntraceparent: 00-1\r\nA:\r\n\r\n", b"NATS/1.0",
    b"\r\n\r\n", b"NATS/1.0\r\nA: b\r\n\r\nMSG a 7 1\r\n", b"\xff", b"MSG a 7 0\r\n\r\n",
])  # fmt: skip
message = st.tuples(
    st.sampled_from([OWN, GRANTED, GRANTED, TAKEN]), usual_word | word, usual_word | word | st.just(b""),
    st.just(b"") | header, st.binary(max_size=12) | forged | st.from_regex(rb'\A\{"client_id":"[0-9]{1,3}"\}\Z'),
)  # fmt: skip
line = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"INFO {}\r\n", b"-ERR 'permissions violation'\r\n"])


@settings(max_examples=400, deadline=None)
@given(
    wire=st.lists(message.map(lambda each: frame(*each)) | line, max_size=20).map(b"".join),
    cuts=st.lists(st.integers(0, 90), max_size=30),
)
@example(wire=frame(7, b"a", b"r", b"", b"x\r\nMSG a 7 1\r\nx") + frame(7, b"a", b"r", b"", b"ok"), cuts=[])
@example(wire=frame(7, b"a", b"1", b"NATS/1.0\r\n\r\n", b""), cuts=[3, 20])
async def test_messages_are_those_that_nats_py_finds(wire: bytes, cuts: list[int]) -> None:
    parser, connection = ours()
    await feed(parser, wire, cuts)
    expected = await found_by_nats_py(wire)
    assert connection.found == expected.found
    assert connection.lines == expected.lines
    assert not parser.buf
    taken = [message for sid, message in connection.found if sid != OWN]
    assert connection.stats == {"in_msgs": len(taken), "in_bytes": sum(len(payload) for _, _, payload, _ in taken)}


async def test_a_stream_of_frames_is_the_same_in_100_000_random_splits() -> None:
    """As a busy task reads it: requests with headers and without, acknowledgements, PINGs, and what clients invent."""
    random = Random(34)
    wire = b""
    for number in range(60):
        body = b'{"client_id":"%d"}' % random.randrange(1000)
        odd = [b"", b"\xff\n", b"a\r\nMSG customer.balance 7 _INBOX.x 2\r\nzz", body * 3][number // 5 % 4]
        wire += frame(GRANTED, b"customer.balance", b"_INBOX.abc.%d" % number, b"", odd if number % 5 == 0 else body)
        if number % 3 == 0:
            block = b"NATS/1.0\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
            wire += frame(TAKEN, b"customer.balance", b"_INBOX.def.%d" % number, block, body)
        if number % 7 == 0:
            wire += frame(OWN, b"_INBOX_service.x", b"", b"NATS/1.0 503\r\n\r\n", b"") + b"PING\r\n"
    expected = await found_by_nats_py(wire)
    total = 0
    while total < 100_000:
        parser, connection = ours()
        cuts, left = [], len(wire)
        size = random.choice((3, 40, 300, 2000))
        while left > 0:
            cuts.append(random.randint(1, size))
            left -= cuts[-1]
        total += len(cuts)
        await feed(parser, wire, cuts)
        assert connection.found == expected.found
        assert connection.lines == expected.lines


async def test_what_one_read_brings_comes_together_whatever_is_between() -> None:
    """One odd message, one with headers, or another subscription's takes none of its neighbours with it."""
    parser, connection = ours()
    requests = [frame(GRANTED, b"customer.balance", b"_INBOX.%d" % number, b"", b"{}") for number in range(100)]
    requests[20] = frame(TAKEN, b"customer.balance", b"_INBOX.20", b"NATS/1.0\r\nA: b\r\n\r\n", b"{}")
    requests[40] = frame(TAKEN, b"customer.balance", b"_INBOX.40", b"", b"several\r\nlines\r\n")
    requests[60] = frame(GRANTED, b"customer.balance", b"\xff", b"\xff", b"x\r\nMSG a 7 1\r\nx")
    requests[80] += frame(OWN, b"a", b"", b"", b"x")
    await parser.parse(b"".join(requests))
    assert connection.reads == [81, 19], "what is another's comes in its place"
    await parser.parse(b"".join([*requests[:50], b"PING\r\n", *requests[50:]]))
    assert connection.reads == [81, 19, 50, 31, 19], "a PING is answered in its place"


async def test_a_read_that_ends_in_a_message_does_not_send_the_next_one_the_slow_way() -> None:
    parser, connection = ours()
    wire = b"".join(frame(GRANTED, b"a", b"_INBOX.%d" % number, b"", b"payload") for number in range(200))
    for start in range(0, len(wire), 1000):
        await parser.parse(wire[start : start + 1000])
        assert parser.state == upstream.AWAITING_CONTROL_LINE
    assert len(connection.reads) <= len(wire) // 1000 + 1


@pytest.mark.parametrize(
    "payload",
    [b"x\r\nMSG a 7 1\r\nx", b"\r\n" * 20, b"MSG a 7 1\r\nx\r\n" * 5, b"HMSG a 7 r 12 12\r\nNATS/1.0\r\n\r\n\r\n"],
)
async def test_hostile_payloads_have_a_read_searched_twice_at_most(
    payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found in vain is bounded by what is there, whatever it is made of."""
    searched = 0
    search = nats_parser._all

    def count(text: str, at: int) -> list[Any]:
        nonlocal searched
        found = search(text, at)
        searched += len(found)
        return found

    monkeypatch.setattr(nats_parser, "_all", count)
    parser, connection = ours()
    wire = frame(GRANTED, b"a", b"_INBOX.x", b"", payload) * 400
    await parser.parse(wire)
    assert len(connection.found) == 400
    lines = len(re.findall(rb"MSG ", wire))
    assert searched <= 2 * lines + 400


async def test_a_large_message_is_looked_at_when_all_of_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    search = nats_parser._all

    def count(text: str, at: int) -> list[Any]:
        nonlocal looks
        looks += 1
        return search(text, at)

    monkeypatch.setattr(nats_parser, "_all", count)
    parser, connection = ours()
    wire = frame(GRANTED, b"a", b"_INBOX.x", b"", bytes(4 << 20)) + frame(GRANTED, b"a", b"r", b"", b"ok")
    for start in range(0, len(wire), 32_768):
        await parser.parse(wire[start : start + 32_768])
    assert [len(payload) for _, (_, _, payload, _) in connection.found] == [4 << 20, 2]
    assert looks <= 3


async def test_a_callback_that_fails_costs_its_own_messages_alone() -> None:
    connection = Connection()

    def fail(_: Read) -> None:
        raise ZeroDivisionError("as the test wants it")

    parser = Parser(connection, {"7": fail, "8": connection.take}, connection.fail)
    await parser.parse(frame(7, b"a", b"", b"", b"x") + frame(8, b"a", b"", b"", b"y") + frame(1, b"a", b"", b"", b"z"))
    assert (connection.failures, sorted(sid for sid, _ in connection.found)) == (1, [1, 8])
    assert connection.stats == {"in_msgs": 2, "in_bytes": 2}


async def test_a_callback_may_end_the_other_subscriptions_of_its_read() -> None:
    connection = Connection()
    callbacks: dict[str, Callback] = {}

    def take_and_end(read: Read) -> None:
        connection.take(read)
        callbacks.clear()

    callbacks |= {"7": take_and_end, "8": lambda read: take_and_end(read)}
    parser = Parser(connection, callbacks, connection.fail)
    await parser.parse((frame(7, b"a", b"", b"", b"x") + frame(8, b"a", b"", b"", b"y")) * 3)
    assert [sid for sid, _ in connection.found] == [7, 8] * 3


async def test_what_comes_behind_the_end_of_a_connection_is_not_read() -> None:
    """A refusal drops the connection, and what is left of its bytes must not reach the next one."""
    connection = Connection()
    parser = Parser(connection, {"7": connection.take}, connection.fail)

    async def end(_: str) -> None:
        parser.reset()

    connection._process_err = end  # type: ignore[assignment,method-assign]
    await parser.parse(frame(7, b"a", b"", b"", b"1") + b"-ERR 'x'\r\n" + frame(7, b"a", b"", b"", b"2") + b"MSG a")
    assert [payload for _, (_, _, payload, _) in connection.found] == [b"1"]
    assert not parser.buf


async def test_a_word_ends_at_a_blank_as_the_server_has_it() -> None:
    """nats-py's own ends at any white space: a form feed in a reply subject ended the connection."""
    parser, connection = ours()
    await parser.parse(frame(7, b"a", b"_INBOX.\f\v", b"", b"x"))
    assert connection.found == [(7, (b"a", b"_INBOX.\f\v", b"x", b""))]


async def test_an_unknown_line_is_refused() -> None:
    parser, _ = ours()
    with pytest.raises(ProtocolError):
        await parser.parse(frame(7, b"a", b"", b"", b"1") + b"HELLO\r\n")
