"""A line is taken if `customer.create` would take its id, name and date; each bad one is named by its column."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis.strategies import from_regex

from operations.load.lines import BALANCE_MAX, COLUMNS, BadLine, Client, Form, form_of, of_json
from service.contracts import customer as contract


def of_csv(header: str, line: str) -> Client:
    form = form_of(header.encode())
    assert form.has_header
    return form.parse(line.encode())


@pytest.mark.parametrize(
    ("header", "line", "client"),
    [
        ("client_id,balance", "678,7120", Client("678", 7120)),
        ("client_id,balance", "678,0\r", Client("678", 0)),
        ("balance,client_id", f"{BALANCE_MAX},ä-1", Client("ä-1", BALANCE_MAX)),
        ("client_id,balance,name", "1,2,", Client("1", 2)),
        ("client_id,balance,name", '1,2,"Doe, ""J"""', Client("1", 2, 'Doe, "J"')),
        ("client_id,balance,name,created_at", "1,2, Jo Doe ,2024-01-23", Client("1", 2, "Jo Doe", "2024-01-23")),
        ("client_id,balance,created_at", "1,2,2024-01-23T10:00:00+02:00", Client("1", 2, None, "2024-01-23T08:00:00Z")),
        ('"client_id","balance"', '"1","2"', Client("1", 2)),
    ],
)
def test_a_good_line_of_csv(header: str, line: str, client: Client) -> None:
    assert of_csv(header, line) == client


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        ("1", "line", "has 1 fields, and the header 4"),
        ("1,2,a,b,c", "line", "has 5 fields, and the header 4"),
        ('1,2,"a', "line", "is not CSV (unexpected end of data)"),
        (",2,,", "client_id", "must be one NATS subject token"),
        ("a b,2,,", "client_id", "must be one NATS subject token"),
        ("a.b,2,,", "client_id", "must be one NATS subject token"),
        (f"{'a' * 129},2,,", "client_id", "must be one NATS subject token"),
        ("1,,,", "balance", "must be an integer from 0 to"),
        ("1,-1,,", "balance", "must be an integer from 0 to"),
        ("1,1.0,,", "balance", "must be an integer from 0 to"),
        ("1,1e3,,", "balance", "must be an integer from 0 to"),
        ("1, 1,,", "balance", "must be an integer from 0 to"),
        ("1,\u0661,,", "balance", "must be an integer from 0 to"),
        (f"1,{BALANCE_MAX + 1},,", "balance", "must be an integer from 0 to"),
        ("1,2,a\tb,", "name", "must have 1 to 256 characters"),
        (f"1,2,{'a' * 257},", "name", "must have 1 to 256 characters"),
        ("1,2,a,23.01.2024", "created_at", "must be an ISO date or date-time"),
        ("1,2,a,2024-02-30", "created_at", "must be an ISO date or date-time"),
    ],
)
def test_a_bad_line_names_its_column(line: str, column: str, reason: str) -> None:
    with pytest.raises(BadLine) as caught:
        of_csv("client_id,balance,name,created_at", line)
    assert caught.value.column == column
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("678,7120", "has no client_id and no balance; the first line names the columns"),
        ("client_id", "has no balance"),
        ("client_id;balance", "has no client_id and no balance"),
        ("client_id,balance,points", "names 'points', and the columns are"),
        ("client_id,balance,balance", "names a column twice"),
    ],
)
def test_a_header_that_cannot_be_used(header: str, reason: str) -> None:
    with pytest.raises(BadLine) as caught:
        form_of(header.encode())
    assert (caught.value.column, caught.value.reason.startswith(reason)) == ("header", True), caught.value


@pytest.mark.parametrize(
    ("first", "reason"), [(b"client_id,balance,\xff", "is not UTF-8"), (b'"client_id,balance', "is not CSV")]
)
def test_a_first_line_that_cannot_be_read_is_no_header(first: bytes, reason: str) -> None:
    """Else the second line would be taken for it."""
    with pytest.raises(BadLine) as caught:
        form_of(first)
    assert (caught.value.column, caught.value.reason.startswith(reason)) == ("header", True), caught.value


@pytest.mark.parametrize(
    ("line", "twice"),
    [
        (b'{"client_id":"1","balance":5,"balance":6}', "balance"),
        (b'{"client_id":"1","balance":5,"b\\u0061lance":6}', "balance"),
        (b'{"client_id":"1","client_id":"1","balance":5}', "client_id"),
        (b'{"client_id":"1","balance":5,"name":null,"name":"J"}', "name"),
    ],
)
def test_a_name_twice_in_a_line_of_json(line: bytes, twice: str) -> None:
    with pytest.raises(BadLine) as caught:
        of_json(line)
    assert (caught.value.column, caught.value.reason) == ("line", f"has '{twice}' twice")


def test_a_name_that_is_a_value_too() -> None:
    assert of_json(b'{"client_id":"balance","balance":5,"name":"name"}') == Client("balance", 5, "name")
    assert of_json(b'{"client_id":"1","balance":5,"name":"\\u00dc"}') == Client("1", 5, "\u00dc")


def test_a_balance_that_not_every_reader_of_json_has_exactly() -> None:
    """It would be another number in a reply: https://www.rfc-editor.org/rfc/rfc8259#section-6."""
    most = 2**53 - 1
    assert of_json(b'{"client_id":"1","balance":%d}' % most) == of_csv("client_id,balance", f"1,{most}")
    with pytest.raises(BadLine, match="balance: must be"):
        of_json(b'{"client_id":"1","balance":%d}' % (most + 1))


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ({"client_id": "1", "balance": 5}, Client("1", 5)),
        ({"client_id": "1", "balance": 5.0, "name": None, "created_at": None}, Client("1", 5)),
        ({"balance": 5, "client_id": "1", "name": " J "}, Client("1", 5, "J")),
        ({"client_id": 1, "balance": 5}, "client_id"),
        ({"client_id": "1", "balance": "5"}, "balance"),
        ({"client_id": "1"}, "balance"),
        ({"balance": 1}, "client_id"),
        ({"client_id": "1", "balance": True}, "balance"),
        ({"client_id": "1", "balance": 10**30}, "balance"),
        ({"client_id": "1", "balance": 5, "name": ""}, "name"),
        ({"client_id": "1", "balance": 5, "points": 1}, "line"),
        ([], "line"),
    ],
)
def test_a_line_of_json(row: Any, outcome: Client | str) -> None:
    line = json.dumps(row).encode()
    if isinstance(outcome, Client):
        assert form_of(line) == Form(of_json, has_header=False)
        assert of_json(line) == outcome
        return
    with pytest.raises(BadLine) as caught:
        of_json(line)
    assert caught.value.column == outcome


@pytest.mark.parametrize("line", [b'{"client_id":"\xff","balance":1}', b"{", b'{"client_id":"1","balance":NaN}'])
def test_what_is_no_json(line: bytes) -> None:
    with pytest.raises(BadLine, match="is not JSON"):
        of_json(line)


@pytest.mark.parametrize(
    "text", ["a", "a b", "", " ", "\u3000x", "a*", ">", "ü" * 128, "ü" * 129, "\x7f", "a\u200a", "é"]
)
def test_ids_and_names_are_those_of_the_published_schema(text: str) -> None:
    """A JSON Schema validator judges, not a function of ours."""
    for column in ("client_id", "name"):
        row = {"client_id": "1", "balance": 1, column: text}
        body = {"name": "x", **{key: value for key, value in row.items() if key != "balance"}}
        valid = jsonschema.Draft202012Validator(contract.CREATE_REQUEST_SCHEMA).is_valid(body)
        try:
            of_json(json.dumps(row).encode())
        except BadLine as error:
            assert (error.column, valid) == (column, False)
        else:
            assert valid


FORM = form_of(",".join(COLUMNS).encode())
assert FORM.usual


@given(from_regex(FORM.usual, fullmatch=True))
def test_what_is_good_at_a_glance_is_good_when_it_is_parsed(line: bytes) -> None:
    assert FORM.usual
    (client_id,) = FORM.usual.findall(line)
    assert FORM.parse(line.removesuffix(b"\n")).client_id == client_id.decode()


@pytest.mark.parametrize(
    "line", ["1,2,a,2024-02-30", "1,2,a,0000-01-01", "1,-2,,", "a.b,2,,", "1,2,,,", "1,2,a", "", "ü,1,,"]
)
def test_what_is_not_usual_is_parsed(line: str) -> None:
    assert FORM.usual
    assert FORM.usual.findall(f"1,2,,\n{line}\n3,4,,".encode()) == [b"1", b"3"]
