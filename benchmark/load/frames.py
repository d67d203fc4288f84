"""Raw frames of balance requests and their replies: one pass finds all the replies in a read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import cycle
from typing import Final, NamedTuple

from nats.micro.request import ERROR_CODE_HEADER

from benchmark.errors import BenchmarkError
from benchmark.load.endpoints import BALANCE, ENDPOINTS, WRONG_SHAPE
from benchmark.load.job import Frames
from benchmark.load.transport import NO_RESPONDERS
from service.contracts import customer as contract

ODD_EVERY: Final = 100
TRACEPARENT: Final = b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_FRAME: Final = re.compile(rb"(?:(H?)MSG [^ ]+\.(\d+) 1 (\d+)(?: (\d+))?|PING|PONG|\+OK|(-ERR[^\r]*))\r\n")
_RIGHT: Final = re.compile(rb'\{"balance": ?-?\d+\}')
ALL_RIGHT: Final = re.compile(rb"MSG [^ ]+\.(\d+) 1 \d+\r\n%b\r\n" % _RIGHT.pattern)
_CODE: Final = re.compile(rb"%b: (\d+)\r\n" % ERROR_CODE_HEADER.encode())


class Request(NamedTuple):
    """A request's frame without its reply subject, which goes between `begin` and `rest`."""

    begin: bytes
    rest: bytes
    refusal: str = ""
    """The error code that must answer it; empty: a reply must."""
    is_split: bool = False
    """True to send it in two writes."""


def request(payload: bytes, header: bytes = b"", refusal: str = "", *, is_split: bool = False) -> Request:
    subject = contract.SUBJECT.encode()
    if not header:
        return Request(b"PUB %b " % subject, b" %d\r\n%b\r\n" % (len(payload), payload), refusal, is_split)
    block = b"NATS/1.0\r\n%b\r\n\r\n" % header
    rest = b" %d %d\r\n%b%b\r\n" % (len(block), len(block) + len(payload), block, payload)
    return Request(b"HPUB %b " % subject, rest, refusal, is_split)


def _asking(client_id: str) -> bytes:
    return ENDPOINTS[BALANCE].request(client_id, "")


ODD: Final = (
    request(_asking("unknown"), refusal="404"),
    request(b'{"client_id":', refusal="403"),
    request(_asking("1"), b"X-Request: 1"),
    request(b'{"client_id":%b"1"}' % (b"\r\n" * 200)),
    request(_asking("1"), is_split=True),
)


def requests(kind: Frames, ids: Iterator[str]) -> Iterator[Request]:
    """Yield requests for `ids` in turn, endlessly: plain, each with a traceparent, or one in a hundred odd."""
    header = TRACEPARENT if kind == "traceparent" else b""
    usual = cycle(request(_asking(client_id), header) for client_id in ids)
    if kind != "odd":
        return usual
    odd = cycle(ODD)
    return (each if number % ODD_EVERY else next(odd) for number, each in enumerate(usual, 1))


def replies(data: bytes) -> tuple[list[tuple[bytes, str]], int]:
    """Return (request number, result) per reply, and the position of the first incomplete frame.

    A result is an error's code, else what is wrong with the reply, else ''. Raises `BenchmarkError` for an -ERR.
    """
    found, at = list[tuple[bytes, str]](), 0
    while frame := _FRAME.match(data, at):
        has_headers, number, size, total, refused = frame.groups()
        if refused:
            raise BenchmarkError(f"nats-server says {refused.decode()}")
        if number is None:
            at = frame.end()
            continue
        body, end = frame.end(), frame.end() + int(total or size)
        if len(data) < end + 2:
            break
        at = end + 2
        if has_headers:
            code = _CODE.search(data, body, end)
            found.append((number, code[1].decode() if code else _status(data[body:end])))
        else:
            found.append((number, "" if _RIGHT.fullmatch(data, body, end) else WRONG_SHAPE))
    return found, at


def _status(message: bytes) -> str:
    """Return the status line of a message with headers but without an error code."""
    line = message.partition(b"\r\n")[0].decode()
    return NO_RESPONDERS if line == "NATS/1.0 503" else line
