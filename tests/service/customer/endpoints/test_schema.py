"""The published schema and the code are one: what the schema takes the code takes, and nothing else."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from service.contracts import customer as contract
from service.customer.client_id import decode_client_id
from service.customer.endpoints import adjust, statement
from service.customer.endpoints.create import decode
from service.requests.decode import decode_object
from service.requests.errors import BadRequest
from tests.support.schema import ecma, is_taken, wire

FORMATS = jsonschema.FormatChecker(formats=["date"])
CREATE = jsonschema.Draft202012Validator(ecma(contract.CREATE_REQUEST_SCHEMA), format_checker=FORMATS)
GET = jsonschema.Draft202012Validator(ecma(contract.REQUEST_SCHEMA))

# https://262.ecma-international.org/#sec-white-space and #sec-line-terminators: a schema's `\s`
WHITE = [*"\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff", *map(chr, range(0x2000, 0x200B))]
CONTROL = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))]
OTHERS = ["\u200b", "\u180e", "\u2060", "\u00ad", "\u0301", "\U0001f701", ".", "*", ">", "é", "-", "'", "\\", '"']
CHARACTERS = sorted({*WHITE, *CONTROL, *OTHERS})
FORMS = ("{0}", "a{0}", "{0}a", "a{0}b", "{0}{0}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("character", CHARACTERS, ids=ascii)
def test_each_character_of_an_id_and_of_a_name(form: str, character: str) -> None:
    text = form.format(character)
    assert is_taken(decode_client_id, {"client_id": text}) == GET.is_valid({"client_id": text})
    assert is_taken(decode, {"name": text}) == CREATE.is_valid({"name": text})


ADJUST = jsonschema.Draft202012Validator(ecma(contract.ADJUST_REQUEST_SCHEMA))
STATEMENT = jsonschema.Draft202012Validator(ecma(contract.STATEMENT_REQUEST_SCHEMA))
OUT: dict[str, Any] = {"client_id": "7", "adjustment_id": "a", "points": -1}


@pytest.mark.parametrize("left_out", [None, *OUT])
@pytest.mark.parametrize(
    "other",
    [
        {}, {"points": 0}, {"points": 10**12}, {"points": -(10**12)}, {"points": 10**12 + 1}, {"points": -(10**12) - 1},
        {"points": 1.0}, {"points": 1.5}, {"points": True}, {"points": "1"}, {"points": None}, {"points": 0.0},
        {"adjustment_id": ""}, {"adjustment_id": "\U0001f701" * 128}, {"adjustment_id": "a" * 129},
        {"adjustment_id": 7}, {"adjustment_id": " \n\0"}, {"adjustment_id": None}, {"reason": None}, {"reason": ""},
        {"reason": "x" * 200},
        {"reason": "x" * 201}, {"reason": 7}, {"client_id": "a.b"}, {"more": 1},
    ],
)  # fmt: skip
def test_each_adjustment(other: dict[str, Any], left_out: str | None) -> None:
    body = {name: value for name, value in {**OUT, **other}.items() if name != left_out}
    assert is_taken(adjust.decode, body) == ADJUST.is_valid(body)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 5000, "1e12", "1e13", "1e-1", "-0", "-0.0", "10.0e-1"])
def test_points_of_any_form(number: str) -> None:
    payload = f'{{"client_id":"7","adjustment_id":"a","points":{number}}}'
    taken = number in {"1e12", "10.0e-1"}
    if taken:
        assert adjust.decode(payload).points == int(float(number))
    else:
        with pytest.raises(BadRequest, match="points must be"):
            adjust.decode(payload)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"limit": 1}, {"limit": 100}, {"limit": 101}, {"limit": 0}, {"limit": -1}, {"limit": 1.0}, {"limit": "1"},
        {"limit": None}, {"limit": True}, {"before": 1}, {"before": 0}, {"before": None}, {"before": "x"},
        {"before": 2.0}, {"before": 10**15}, {"before": 10**15 + 1}, {"client_id": 7},
    ],
)  # fmt: skip
def test_each_page(body: dict[str, Any]) -> None:
    assert is_taken(statement.decode, {"client_id": "7", **body}) == STATEMENT.is_valid({"client_id": "7", **body})


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x" * 256}, {"name": "x" * 257}, {"name": " " * 900 + "x"}, {"name": "x" * 255 + " " + "y"},
        {"name": "x" * 256 + " "}, {"name": ""}, {"name": None}, {"name": 7}, {}, {"client_id": "a"},
        {"name": "x", "client_id": "a" * 128}, {"name": "x", "client_id": "a" * 129}, {"name": "x", "client_id": None},
        {"name": "x", "created_at": None}, {"name": "x", "created_at": 7}, {"name": "x", "created_at": "now"},
        {"name": "x", "created_at": "2024-02-30"}, {"name": "x", "created_at": "2024-02-29"},
        {"name": "x", "created_at": "2024-01-23 10:00"}, {"name": "x", "created_at": "2024-01-23T10:00:00,5+02:00"},
        {"name": "x", "created_at": "2024-01-23T10:00:00.0123456789Z"}, {"name": "x", "created_at": ["2024-01-23"]},
        {"name": "x", "created_at": "2024-01-23T10"}, {"name": "x", "created_at": "2024-01-23\n"},
        {"name": "x", "created_at": "\u0662024-01-23T10:00"}, {"name": "x", "more": 1},
    ],
)  # fmt: skip
def test_each_body(body: object) -> None:
    assert is_taken(decode, body) == CREATE.is_valid(body)


# https://www.rfc-editor.org/rfc/rfc3339#section-5.6: `date-time`, its fraction of any length, and its leap second
@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("2024-01-23T10:00:00.0123456789Z", "2024-01-23T10:00:00.012345Z"),
        ("2024-01-23T10:00:00." + "1" * 50 + "Z", "2024-01-23T10:00:00.111111Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2016-12-31T23:59:60.9Z", "2017-01-01T00:00:00Z"),
        ("1990-12-31T15:59:60-08:00", "1991-01-01T00:00:00Z"),
        ("2024-01-23T10:00:00-00:00", "2024-01-23T10:00:00Z"),
    ],
)
def test_date_times_of_rfc_3339(given: str, written: str) -> None:
    assert decode(wire({"name": "x", "created_at": given})).created_at == written


@pytest.mark.parametrize(
    "given", ["2024-01-23T10:00:60Z", "2024-01-23T23:59:60Z", "2016-12-31T23:59:60+01:00", "2016-12-31T23:59:61Z"]
)
def test_seconds_that_there_are_not(given: str) -> None:
    with pytest.raises(BadRequest, match="created_at must be"):
        decode(wire({"name": "x", "created_at": given}))


# https://www.rfc-editor.org/rfc/rfc8259#section-6 sets no bounds to a number
@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 5000, "1e-999", "123456789012345678901234567890", "0.1e1"])
def test_a_number_of_any_size_is_json(number: str) -> None:
    assert decode_client_id(f'{{"client_id":"7","more":{number}}}') == "7"
    with pytest.raises(BadRequest, match="client_id must be a string"):
        decode_client_id(f'{{"client_id":{number}}}')


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b'{"a":NaN}', "not JSON"), (b'{"a":Infinity}', "not JSON"), (b"\xff", "not JSON"), (b"", "not JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"), ('{"a":1}'.encode("utf-16"), "not JSON"), (b'{"a":01}', "not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"), (rb'{"client_id":"\ud800"}', "half of a character"),
        (b"[1e999]", "not a JSON object"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_not_json_or_not_text_is_said(payload: bytes, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        decode_object(payload.decode("latin-1"))
