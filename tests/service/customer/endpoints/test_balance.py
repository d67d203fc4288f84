"""Decoding is the contract's first line: whatever arrives is a client id, or is said to be none."""

from __future__ import annotations

import json
from collections.abc import Sequence

import nats.errors
import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from service.contracts.customer import REQUEST_SCHEMA
from service.customer.client_id import decode_client_id, usual_client_ids
from service.customer.clients import Clients
from service.customer.endpoints.balance import Balance, encode
from service.customer.events.events import Events
from service.nats.client import NatsClient
from service.requests.burst import REPLY_LOST, Burst
from service.requests.errors import BadRequest
from service.runtime.telemetry.tracing import NoTracing
from tests.support.dynamodb.table import open_table
from tests.support.world import World, eventually


def decode(payload: bytes) -> str:
    """As it comes from the wire: each byte a character."""
    return decode_client_id(payload.decode("latin-1"))


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
def test_the_reply_to_a_malformed_request_says_what_is_wrong(payload: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        decode(payload)


def test_the_last_of_equal_keys_counts_and_other_keys_are_ignored() -> None:
    assert decode(b'{"client_id":"1","x":{"y":[1e9]},"client_id":"2"}') == "2"


def test_a_client_id_may_have_128_characters() -> None:
    assert len(decode(b'{"client_id":"' + b"x" * 128 + b'"}')) == 128


@pytest.mark.parametrize("balance", [0, -5, 7120, 10**37])
def test_the_reply_is_those_bytes(balance: int) -> None:
    assert encode(balance) == f'{{"balance":{balance}}}'


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


usual = st.from_regex(r'\A\{"client_id": ?"[0-9A-Za-z_-]{1,5}"\}\Z')
tricky = st.sampled_from([
    b'{"client_id":"1"}\n{"client_id":"2"}', b"zz", b"\n", b"", b'{"client_id":"1"}\n', b'{"a":[1', b"2]}", b"{},{}",
    b'{"client_id":"1"},{"client_id":"2"}', b'{"client_id":"1"}\r', '{"client_id":"\u00fc"}'.encode(),
])  # fmt: skip


@given(st.lists(usual.map(str.encode) | tricky | st.binary(max_size=20), min_size=1, max_size=8))
def test_ids_that_are_found_together_are_those_that_are_found_one_by_one(payloads: list[bytes]) -> None:
    """Two bodies that are joined must not shift an id to another request."""
    texts = [payload.decode("latin-1") for payload in payloads]
    found = usual_client_ids(texts)
    if found is not None:
        assert found == [decode_client_id(text) for text in texts]
    else:
        assert any(not payload.startswith(b'{"client_id"') or b"\n" in payload or b"\r" in payload
                   or not payload.isascii() or payload.count(b":") > 1 for payload in payloads)  # fmt: skip


@pytest.mark.usefixtures("aws")
async def test_an_answer_is_published_exactly_when_its_reply_left(world: World) -> None:
    world.put_rows({"1": 7, "2": 8})
    outcomes = list[tuple[int, str]]()
    async with world.client("service") as client, open_table(world.table) as table:
        assert isinstance(client, NatsClient)
        events = Events(client)
        await events.start(batched=True)
        balance = Balance(Clients(table, NoTracing()), events)

        def post(frames: str, sizes: Sequence[int]) -> None:
            if "_INBOX.lost" in frames:
                raise nats.errors.OutboundBufferLimitError
            client.post_frames(frames, sizes)

        def done(_: Burst, count: int, outcome: str, **__: object) -> None:
            outcomes.append((count, outcome))

        for replies in (["_INBOX.a", "_INBOX.b"], ["_INBOX.lost", "_INBOX.too"], ["_INBOX.c", "_INBOX.d"]):
            balance.handle(Burst(replies, 0, post, done), ['{"client_id":"1"}', '{"client_id":"2"}'])
        await eventually(lambda: len(outcomes) == 3)
        assert await events.flush(5) == 0
        await events.close()
    assert sorted(outcomes) == [(2, "OK"), (2, "OK"), (2, REPLY_LOST)], "all of a burst, or none"
    assert await world.last_sequence() == 4


@pytest.mark.usefixtures("aws")
async def test_one_odd_client_is_answered_for_itself_and_the_others_together(world: World) -> None:
    world.put_rows({"1": 7, "2": 8})
    world.put_item({"id": {"S": "odd"}, "client_balance": {"S": "seven"}})
    outcomes = list[tuple[int, str]]()
    async with world.client("service") as client, open_table(world.table) as opened:
        assert isinstance(client, NatsClient)
        events = Events(client)
        await events.start(batched=True)
        balance = Balance(Clients(opened, NoTracing()), events)
        ids = ["1", "nobody", "2", "odd", "1"]

        def done(_: Burst, count: int, outcome: str, **__: object) -> None:
            outcomes.append((count, outcome))

        burst = Burst([f"_INBOX.{number}" for number in range(6)], 0, client.post_frames, done)
        balance.handle(burst, [*[f'{{"client_id":"{client_id}"}}' for client_id in ids], "zz"])
        await eventually(lambda: len(outcomes) == 4)
        assert await events.flush(5) == 0
        await events.close()
    assert outcomes == [(1, "BAD_REQUEST"), (1, "NOT_FOUND"), (1, "INTERNAL_ERROR"), (3, "OK")]
    assert await world.last_sequence() == 3
