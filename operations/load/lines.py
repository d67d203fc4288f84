"""Parse a line of the file as a client: by the rules of `customer.create`, plus a balance."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from service.contracts import customer as contract
from service.customer.client_id import client_id_of
from service.customer.endpoints.create import created_at_of, name_of
from service.requests.decode import integer_of
from service.requests.errors import BadRequest

CLIENT_ID: Final = "client_id"
BALANCE: Final = "balance"
NAME: Final = contract.NAME_ATTRIBUTE
CREATED_AT: Final = contract.CREATED_AT_ATTRIBUTE
COLUMNS: Final = (CLIENT_ID, BALANCE, NAME, CREATED_AT)
_QUOTED: Final = [f'"{name}"'.encode() for name in COLUMNS]
BALANCE_MAX: Final = 2**53 - 1
"""The largest integer that every JSON reader reads exactly: replies are JSON. DynamoDB could keep 38 digits.

https://www.rfc-editor.org/rfc/rfc8259#section-6
"""
HEADER: Final = "header"
LINE: Final = "line"
"""Where a problem is, if it is in no column."""
_digits: Final = re.compile(r"[0-9]{1,16}").fullmatch
_RULE: Final = f"must be an integer from 0 to {BALANCE_MAX}"


class Client(NamedTuple):
    client_id: str
    balance: int
    name: str | None = None
    created_at: str | None = None


class BadLine(Exception):
    """A line that cannot be loaded: the column, and what is wrong with it."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"{column}: {reason}")
        self.column = column
        self.reason = reason


Parse = Callable[[bytes], Client]
"""Return a line's client. Raises `BadLine`."""

_USUAL: Final = {
    CLIENT_ID: b"([0-9A-Za-z_-]{1,128})",
    BALANCE: b"[0-9]{1,15}",
    NAME: b"(?:[A-Za-z](?:[A-Za-z .'-]{0,200}[A-Za-z])?)?",
    CREATED_AT: b"(?:[12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8]))?",
}
"""Fields of most lines; whatever matches is valid."""


@dataclass(frozen=True)
class Form:
    """How to read a file, judged by its first line."""

    parse: Parse
    has_header: bool
    usual: re.Pattern[bytes] | None = None
    """Finds the client ids of valid CSV lines: one search over many lines is a tenth of the work."""


def form_of(first: bytes) -> Form:
    """Return the form of a file that begins with this line. Raises `BadLine` for a header that cannot be used."""
    if first.lstrip().startswith(b"{"):
        return Form(of_json, has_header=False)
    try:
        columns = _fields(first)
    except BadLine as error:
        raise BadLine(HEADER, error.reason) from None  # else the next line would be taken for the header
    given = ",".join(columns)
    if missing := [name for name in (CLIENT_ID, BALANCE) if name not in columns]:
        raise BadLine(
            HEADER, f"has no {' and no '.join(missing)}; the first line names the columns: {','.join(COLUMNS)}"
        )
    if strange := [name for name in columns if name not in COLUMNS]:
        raise BadLine(HEADER, f"names {', '.join(strange)!r}, and the columns are {','.join(COLUMNS)}")
    if len(set(columns)) < len(columns):
        raise BadLine(HEADER, f"names a column twice: {given}")
    count = len(columns)

    def of_csv(line: bytes) -> Client:
        fields = _fields(line)
        if len(fields) != count:
            raise BadLine(LINE, f"has {len(fields)} fields, and the header {count}")
        row: dict[str, Any] = dict(zip(columns, fields, strict=True))
        text = row[BALANCE]
        for optional in (NAME, CREATED_AT):
            if row.get(optional) == "":
                del row[optional]
        return client_of(row, int(text) if _digits(text) else None)

    usual = re.compile(b"^%b\r?$" % b",".join([_USUAL[name] for name in columns]), re.MULTILINE)
    return Form(of_csv, has_header=True, usual=usual)


def of_json(line: bytes) -> Client:
    """Return the client in a line of JSON. Raises `BadLine`."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadLine(LINE, f"is not JSON ({error})") from None
    if type(row) is not dict:
        raise BadLine(LINE, "is not a JSON object")
    if b"\\" in line or any(line.count(name) > 1 for name in _QUOTED):  # a name may be escaped
        json.loads(line, object_pairs_hook=_each_once, parse_int=str)  # int() refuses 4,301 digits
    if strange := [name for name in row if name not in COLUMNS]:
        raise BadLine(LINE, f"has {', '.join(strange)!r}, and the columns are {','.join(COLUMNS)}")
    return client_of({name: value for name, value in row.items() if value is not None}, integer_of(row.get(BALANCE)))


def _each_once(pairs: Sequence[tuple[str, Any]]) -> None:
    """Raise `BadLine` for an object with a duplicate name: readers differ in which value they take."""
    names = [name for name, _ in pairs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise BadLine(LINE, f"has {', '.join(twice)!r} twice")


def client_of(row: Mapping[str, Any], balance: int | None) -> Client:
    """Return the client in a row whose balance is already parsed. Raises `BadLine` for the first bad column."""
    column = CLIENT_ID
    try:
        client_id = client_id_of(dict(row))
        if balance is None or not 0 <= balance <= BALANCE_MAX:
            raise BadLine(BALANCE, _RULE if BALANCE in row else "is missing")
        column = NAME
        name = name_of(dict(row)) if NAME in row else None
        column = CREATED_AT
        return Client(client_id, balance, name, created_at_of(dict(row)))
    except BadRequest as error:
        raise BadLine(column, error.message.removeprefix(f"{column} ")) from None


def _fields(line: bytes) -> list[str]:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise BadLine(LINE, "is not UTF-8") from None
    text = text.removesuffix("\r")
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise BadLine(LINE, f"is not CSV ({error})") from None
