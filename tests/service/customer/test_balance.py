"""Decoding is the contract's first line: whatever arrives is a client id, or is said to be none."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from nats.aio.msg import Msg

from service.customer.balance import Balance, encode
from service.customer.clients import Clients
from service.customer.contract import REQUEST_SCHEMA
from service.customer.decode import decode_client_id as decode
from service.customer.errors import BadRequest
from service.customer.events import Events
from service.customer.request import REPLY_LOST, Request
from service.dynamodb.table import Table
from service.runtime.nats_client import NatsClient
from service.runtime.tracing import NoTracing
from tests.support.table import open_table
from tests.support.world import World, eventually

FORBIDDEN = set(".*>") | {chr(code) for code in (*range(0x21), *range(0x7F, 0xA0))}
client_ids = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters=".*>"), min_size=1, max_size=128
)


@given(client_ids, st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_a_well_formed_request_decodes_to_its_client_id(client_id: str, others: dict[str, object]) -> None:
    body = {**others, "client_id": client_id}
    assert decode(json.dumps(body).encode()) == client_id
    assert decode(b" \n" + json.dumps(body, ensure_ascii=False).encode() + b"\t") == client_id


@given(st.binary(max_size=300))
def test_any_bytes_decode_to_one_subject_token_or_are_refused(payload: bytes) -> None:
    try:
        client_id = decode(payload)
    except BadRequest as error:
        assert orjson.loads(error.body)["error"]
    else:
        assert 1 <= len(client_id) <= 128
        assert not FORBIDDEN & set(client_id)


@given(st.text(max_size=200))
def test_a_client_id_is_one_subject_token_or_is_refused(text: str) -> None:
    try:
        decoded = decode(json.dumps({"client_id": text}).encode())
    except BadRequest:
        assert not 1 <= len(text) <= 128 or any(
            c in FORBIDDEN or c.isspace() or 0xD800 <= ord(c) <= 0xDFFF for c in text
        )
    else:
        assert decoded == text


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "not JSON"),
        (b"zz", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"client_id":"1"', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"client_id":"\\ud800"}', "half of a character"),
        (b'["678"]', "not a JSON object"),
        (b'"678"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "missing"),
        (b'{"Client_Id":"1"}', "missing"),
        (b'{"client_id":null}', "must be a string"),
        (b'{"client_id":678}', "must be a string"),
        (b'{"client_id":["678"]}', "must be a string"),
        (b'{"client_id":""}', "one NATS subject token"),
        (b'{"client_id":"a.b"}', "one NATS subject token"),
        (b'{"client_id":"*"}', "one NATS subject token"),
        (b'{"client_id":">"}', "one NATS subject token"),
        (b'{"client_id":" 1"}', "one NATS subject token"),
        (b'{"client_id":"1\\r\\nPUB x 0"}', "one NATS subject token"),
        ('{"client_id":"1\u00a0"}'.encode(), "one NATS subject token"),
        ('{"client_id":"\u0085"}'.encode(), "one NATS subject token"),
        (b'{"client_id":"' + b"x" * 129 + b'"}', "one NATS subject token"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(payload: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        decode(payload)


def test_the_last_of_equal_keys_counts_and_other_keys_are_ignored() -> None:
    assert decode(b'{"client_id":"1","x":{"y":[1e9]},"client_id":"2"}') == "2"


def test_a_client_id_may_have_128_characters() -> None:
    assert len(decode(b'{"client_id":"' + b"x" * 128 + b'"}')) == 128


@pytest.mark.parametrize("balance", [0, -5, 7120, 10**37])
def test_the_reply_is_those_bytes(balance: int) -> None:
    assert encode(balance) == b'{"balance":' + str(balance).encode() + b"}"


@given(st.text(max_size=140) | client_ids | st.integers() | st.none(), st.booleans())
def test_the_published_schema_says_what_the_code_does(client_id: object, named: bool) -> None:
    assume(not str(client_id).endswith("\n"))  # Python's `$` matches before it, JSON Schema's does not
    body = {"client_id" if named else "id": client_id}
    try:
        decode(json.dumps(body).encode())
    except BadRequest:
        taken = False
    else:
        taken = True
    assert Draft202012Validator(REQUEST_SCHEMA).is_valid(body) is taken


@pytest.mark.usefixtures("aws")
async def test_an_answer_is_published_exactly_when_its_reply_left(world: World) -> None:
    """One request has no inbox to reply to: nobody was told a balance that an event could record."""
    world.put_rows({"1": 7})
    table = Table(world.table, "id")
    table.open()
    async with world.client("service") as client:
        assert isinstance(client, NatsClient)
        events, outcomes = Events(client), list[str]()
        await events.start(batched=True)
        balance = Balance(Clients(table, NoTracing()), events)
        for reply in ("_INBOX.told", "", "_INBOX.told.too"):
            msg = Msg(client, "customer.balance", reply, b'{"client_id":"1"}')
            request = Request(client, msg, NoTracing(), lambda _, outcome, __: outcomes.append(outcome))
            await balance.handle(request)
        await eventually(lambda: len(outcomes) == 3)
        assert await events.flush(5) == 0
        assert (outcomes.count("OK"), outcomes.count(REPLY_LOST)) == (2, 1)
        await events.close()
    table.close()
    assert await world.last_sequence() == 2


@pytest.mark.usefixtures("aws")
async def test_all_who_asked_for_one_client_are_answered_alike_whatever_becomes_of_one(world: World) -> None:
    world.put_rows({"1": 7})
    outcomes = list[str]()

    def done(_: Request, outcome: str, __: str) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 1:
            raise ZeroDivisionError("as the test wants it")

    async with world.client("service") as client, open_table(world.table) as table:
        assert isinstance(client, NatsClient)
        events = Events(client)
        await events.start(batched=True)
        balance = Balance(Clients(table, NoTracing()), events)
        for client_id in (b"1", b"nobody"):
            for number in range(3):
                msg = Msg(client, "customer.balance", f"_INBOX.{number}", b'{"client_id":"%b"}' % client_id)
                await balance.handle(Request(client, msg, NoTracing(), done))
            await eventually(lambda client_id=client_id: len(outcomes) == (3 if client_id == b"1" else 6))
        assert await events.flush(5) == 0
        await events.close()
    assert outcomes == ["OK"] * 3 + ["NOT_FOUND"] * 3
    assert await world.last_sequence() == 2, "of the two whose replies were told to have left"
