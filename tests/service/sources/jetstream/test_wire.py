"""A delivered message as the wire has it, whatever its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.sources.jetstream.wire import ack_prefix, parse_headers, position
from tests.support.archive import delivered

SHORT = "$JS.ACK.customer-balances.archive.3.42.7.1764052345123456789.0"
LONG = "$JS.ACK.hub.ACCHASH.customer-balances.archive.3.42.7.1764052345123456789.0.random"


@pytest.mark.parametrize("handle", [SHORT, LONG, LONG.rpartition(".")[0]])
def test_the_numbers_are_found_in_either_form(handle: str) -> None:
    assert position(handle) == (3, 42, 7, 1764052345123456789)
    assert ack_prefix(handle) == handle.partition(".3.42.")[0]
    made = delivered(b"a.b", handle.encode(), b"data", b"NATS/1.0\r\nA: b\r\n\r\n")
    assert (made.handle, made.id, made.sequence, made.number, made.times_received) == (handle, "42", 42, 7, 3)
    assert (made.sent_ns, made.headers, made.data) == (1764052345123456789, (("A", "b"),), b"data")


def test_headers_keep_their_order_and_their_repeats() -> None:
    block = b"NATS/1.0 503 No Responders\r\nB: 1\r\nA:2\r\nB:  x: y \t\r\nno colon\r\nC:\xff\xc2\xa0\r\n\r\n"
    assert parse_headers(block) == (("B", "1"), ("A", "2"), ("B", "x: y"), ("C", "\N{REPLACEMENT CHARACTER}\u00a0"))


@given(block=st.binary(max_size=300))
def test_any_bytes_are_parsed_as_line_by_line(block: bytes) -> None:
    lines = [line for line in block.split(b"\r\n")[1:] if b":" in line]
    assert len(parse_headers(block)) == len(lines)
    if block.isascii():
        pairs = (line.partition(b":") for line in lines)
        assert parse_headers(block) == tuple((name.decode(), value.strip().decode()) for name, _, value in pairs)
