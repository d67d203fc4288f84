"""An event's row: what is in it, whatever the payload."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import orjson
import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import given
from hypothesis import strategies as st

from service.archive.event import Message, Rows, balance_of, event_of, rfc3339
from service.writing.rows import Unreadable
from tests.support.archive import delivered

REPLY = b"$JS.ACK.customer-balances.archive.1.42.7.1764052345123456789.0"
DOMAIN = b"$JS.ACK.hub.ACCHASH.customer-balances.archive.1.42.7.1764052345123456789.0.random"


def row_of(message: Message, host: str = "") -> dict[str, Any]:
    row: dict[str, Any] = orjson.loads(Rows(host, "now").make(message).encoded)
    return row


@pytest.mark.parametrize("reply", [REPLY, DOMAIN, DOMAIN.rpartition(b".")[0]])
def test_the_key_is_the_time_and_the_sequence(reply: bytes) -> None:
    message = delivered(b"customer.balance.678", reply, b'{"balance":7120}', b"")
    assert event_of(message) == ("678", "2025-11-25T06:32:25.123456789Z#42", "2025-11-25T06:32:25.123456789Z")
    item = Rows("here", "now", retention_s=86_400).make(message)
    assert item.key == ("678", "2025-11-25T06:32:25.123456789Z#42")
    assert orjson.loads(item.encoded) == {
        "client_id": {"S": "678"},
        "event": {"S": "2025-11-25T06:32:25.123456789Z#42"},
        "event_time": {"S": "2025-11-25T06:32:25.123456789Z"},
        "archived_at": {"S": "now"},
        "host": {"S": "here"},
        "sequence": {"N": "42"},
        "body": {"S": '{"balance":7120}'},
        "balance": {"N": "7120"},
        "expires_at": {"N": str(1764052345 + 86_400)},
    }


def test_nanoseconds_are_padded() -> None:
    assert rfc3339(1_764_052_345_000_000_001) == "2025-11-25T06:32:25.000000001Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000000000Z"


@pytest.mark.parametrize("name", [b"Nats-Msg-Id", b"nats-msg-id"])
def test_the_message_id_is_kept(name: bytes) -> None:
    headers = b"NATS/1.0\r\nStatus: 404\r\n" + name + b": abc.1\r\n\r\n"
    assert row_of(delivered(b"customer.balance.678", REPLY, b"", headers))["Nats-Msg-Id"] == {"S": "abc.1"}


@pytest.mark.parametrize(
    ("body", "balance"),
    [
        (b'{"balance":-5}', "-5"),
        (b'{ "balance" : 1.50, "x": [1] }', "1.50"),
        (b'{"balance":' + b"9" * 38 + b"}", "9" * 38),
        (b'{"balance":' + b"9" * 39 + b"}", None),
        (b'{"balance":1' + b"0" * 100 + b"}", "1E+100"),
        (b'{"balance":1' + b"0" * 126 + b"}", None),
        (b'{"balance":1e999999999999999999999}', None),
        (b'{"balance":1e-200}', None),
        (b'{"balance":0e500}', "0"),
        (b'{"balance":NaN}', None),
        (b'{"balance":true}', None),
        (b'{"balance":"7"}', None),
        (b'["balance",7]', None),
        (b'{"balance":' + b"[" * 100_000, None),
        (b'\xff"balance"', None),
        (b'{"balance":' + b"1" * 10_000 + b"}", None),
    ],
)
def test_a_balance_is_one_that_dynamodb_holds(body: bytes, balance: str | None) -> None:
    assert balance_of(body) == (balance.encode() if balance else None)
    if balance is not None:
        TypeSerializer().serialize(Decimal(balance))


@given(body=st.binary(max_size=200))
def test_any_body_is_kept(body: bytes) -> None:
    kept = row_of(delivered(b"a.b", REPLY, body, b""))["body"]
    assert (kept["S"].encode() if "S" in kept else base64.b64decode(kept["B"])) == body


def test_a_subject_that_is_no_text_is_no_row() -> None:
    with pytest.raises(Unreadable, match="subject is not UTF-8"):
        row_of(delivered(b"customer.balance.\xff", REPLY, b"", b""))
    assert row_of(delivered(b"customer.\xff.7", REPLY, b"", b""))["client_id"] == {"S": "7"}, "its last token is"


@pytest.mark.parametrize(
    "balance",
    [b"1" + b"0" * 40 + b"e1000000", b"1" * 41 + b"e-2000000", b"1e999999999999999999999", b"-9" * 1 + b"e126"],
)
def test_a_balance_beyond_every_exponent_is_left_out(balance: bytes) -> None:
    assert balance_of(b'{"balance":%b,"more":1}' % balance) is None


@given(
    client=st.text(st.characters(exclude_characters=".", exclude_categories=["Cs"]), min_size=1),
    host=st.text(st.characters(exclude_categories=["Cs"])),
    value=st.binary(max_size=40).map(lambda raw: raw.replace(b"\r\n", b"")),
)
def test_a_row_is_json_whatever_is_in_it(client: str, host: str, value: bytes) -> None:
    block = b"NATS/1.0\r\nX: Nats-Msg-Id: y\r\nnats-msg-ID:" + value + b"\r\nNats-Msg-Id: second\r\n\r\n"
    message = delivered(b"customer.balance." + client.encode(), REPLY, b"{}", block)
    row = row_of(message, host)
    assert row["client_id"] == {"S": client}
    assert row["host"] == {"S": host}
    assert row["Nats-Msg-Id"] == {"S": dict(message.headers[1:2])["nats-msg-ID"]}


@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20))
def test_a_message_id_of_any_characters_is_kept(value: str) -> None:
    block = b"NATS/1.0\r\nNats-Msg-Id: " + value.encode() + b"\r\ntraceparent: x\r\n\r\n"
    message = delivered(b"a.b", REPLY, b"{}", block)
    assert row_of(message)["Nats-Msg-Id"] == {"S": message.headers[0][1]}
