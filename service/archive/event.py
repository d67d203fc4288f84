"""A message to be archived, and the row that it becomes."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

from orjson import dumps

from service.archive.contract import PARTITION_KEY, SORT_KEY, TTL_ATTRIBUTE
from service.sources.source import Message
from service.sources.wire import message_id

NS: Final = 1_000_000_000
_BALANCE: Final = re.compile(rb'\{"balance":(-?(?:0|[1-9][0-9]{0,37}))\}')
_DIGITS: Final = 38
ITEM_BYTES: Final = 400 * 1024
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html#limits-items"""
_ROW: Final = (
    b'{"%b":{"S":%%b},"%b":{"S":%%b},"event_time":{"S":%%b},"archived_at":{"S":%%b},"host":{"S":%%b},'
    b'"body":{"%%b":%%b}%%b}' % (PARTITION_KEY.encode(), SORT_KEY.encode())
)
"""Written as text, a row costs half of what a dictionary of it does."""


@dataclass(slots=True, eq=False)
class Event:
    """What a message says. Two of them are the same event when their keys are the same."""

    message: Message
    client_id: str
    """The partition key: the subject's last token; a queue's message has its id."""
    key: str
    """The sort key."""
    time: str
    """When it came to be, RFC 3339."""
    unreadable: str = ""
    """Why it can be no row, whatever the table says."""


def make_event(message: Message) -> Event:
    time = rfc3339(message.sent_ns)
    key = f"{time}#{message.id}"
    unreadable = f"item size: a body of {len(message.data)} bytes" if len(message.data) > ITEM_BYTES else ""
    if message.sequence is None:
        return Event(message, message.id, key, time, unreadable)
    token = message.subject.rpartition(b".")[2]
    try:
        return Event(message, token.decode(), key, time, unreadable)
    except UnicodeDecodeError:
        return Event(message, token.decode(errors="backslashreplace"), key, time, "subject is not UTF-8")


def encode(event: Event, host: str, archived_at: str, retention_s: int = 0) -> bytes:
    """The row, in DynamoDB's JSON."""
    message = event.message
    more = b""
    if message.sequence is not None:
        more = b',"sequence":{"N":"%b"}' % message.id.encode()
    if b'"balance"' in message.data and (balance := balance_of(message.data)) is not None:
        more += b',"balance":{"N":"%b"}' % balance.encode()
    if (sent_as := _message_id(message)) is not None:
        more += b',"Nats-Msg-Id":{"S":%b}' % dumps(sent_as)
    if retention_s:
        more += b',"%b":{"N":"%d"}' % (TTL_ATTRIBUTE.encode(), message.sent_ns // NS + retention_s)
    return _ROW % (
        dumps(event.client_id), dumps(event.key), dumps(event.time), dumps(archived_at), dumps(host),
        *_body(message.data), more,
    )  # fmt: skip


def balance_of(body: bytes) -> str | None:
    """The payload's balance as DynamoDB holds a number, or None: no such number, or more digits than it can hold."""
    plain = _BALANCE.fullmatch(body)
    if plain:
        return plain[1].decode()
    try:
        payload = json.loads(body, parse_int=Decimal, parse_float=Decimal, parse_constant=lambda _: None)
        balance = payload.get("balance") if type(payload) is dict else None
    except (ValueError, RecursionError, InvalidOperation):
        return None
    if not isinstance(balance, Decimal) or not balance.is_finite():
        return None
    return _number(balance)


def _number(balance: Decimal) -> str | None:
    if balance == 0:
        return "0"
    if not -130 <= balance.adjusted() <= 125:
        return None
    digits = len(balance.as_tuple().digits)
    if digits > _DIGITS:  # some may be zeros at its end
        balance = balance.normalize(Context(prec=digits))
        if len(balance.as_tuple().digits) > _DIGITS:
            return None
    return str(balance)


def rfc3339(time_ns: int) -> str:
    """UTC, with nanoseconds."""
    seconds, nanoseconds = divmod(time_ns, NS)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _body(body: bytes) -> tuple[bytes, bytes]:
    """Its type and its value."""
    try:
        return b"S", dumps(body.decode())
    except UnicodeDecodeError:
        return b"B", dumps(b64encode(body).decode())


def _message_id(message: Message) -> str | None:
    if message.block:
        return message_id(message.block)
    return next((value for name, value in message.headers if name.lower() == "nats-msg-id"), None)
