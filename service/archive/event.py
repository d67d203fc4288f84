"""Turn a message into its row."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from decimal import Context, Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

from orjson import dumps

from service.contracts.archive import PARTITION_KEY, SORT_KEY, TTL_ATTRIBUTE
from service.dynamodb.writer import Item, Key
from service.sources.jetstream.message import StreamMessage
from service.sources.jetstream.wire import message_id
from service.sources.sqs.message import QueueMessage
from service.writing.rows import MakeRow, Unreadable

NS: Final = 1_000_000_000
_plain_balance: Final = re.compile(rb'\{"balance":(-?(?:0|[1-9][0-9]{0,37}))\}').fullmatch
# Fast path: the first header of the service's own events, if JSON escapes none of its characters.
_plain_id: Final = re.compile(rb"NATS/1\.0\r\nNats-Msg-Id: ([!#-\[\]-~]+)\r\n").match
_DIGITS: Final = 38
ITEM_BYTES: Final = 400 * 1024
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html#limits-items"""


Message = StreamMessage | QueueMessage


def event_of(message: Message) -> tuple[str, str, str]:
    """Return client, key and time of a message. Two messages with the same client and key are the same event.

    The client (the partition key) is the subject's last token; for a message of SQS, its id. The key is the sort key.
    """
    time = rfc3339(message.sent_ns)
    if isinstance(message, StreamMessage):
        client_id = message.subject.rpartition(b".")[2].decode("utf-8", "backslashreplace")
        return client_id, f"{time}#{message.sequence}", time
    return message.id, f"{time}#{message.id}", time


class Rows:
    """Makes the rows of one host and one time as DynamoDB JSON text, at half the cost of dictionaries."""

    def __init__(self, host: str, archived_at: str, retention_s: int = 0) -> None:
        same = b'"archived_at":{"S":%b},"host":{"S":%b}' % (dumps(archived_at), dumps(host))
        self._row = b'{"%b":{"S":%%b},"%b":{"S":%%b},"event_time":{"S":"%%b"},%b,"body":{"%%b":%%b}%%b}' % (
            PARTITION_KEY.encode(), SORT_KEY.encode(), same.replace(b"%", b"%%"),
        )  # fmt: skip
        self._retention_s = retention_s

    def make(self, message: Message) -> Item:
        """Make the row of a message. Raises `Unreadable`."""
        data = message.data
        if len(data) > ITEM_BYTES:
            raise Unreadable(f"item size: a body of {len(data)} bytes")
        client_id, key, time = event_of(message)
        if not isinstance(message, StreamMessage):
            more, sent_as = b"", next((value for name, value in message.headers if name.lower() == "nats-msg-id"), None)
        else:
            more, sent_as = b',"sequence":{"N":"%d"}' % message.sequence, None
            if not message.subject.isascii():
                _see_that_it_is_text(message.subject)
            if plain := _plain_id(message.block):
                more += b',"Nats-Msg-Id":{"S":"%b"}' % plain[1]
            else:
                sent_as = message_id(message.block)
        if sent_as is not None:
            more += b',"Nats-Msg-Id":{"S":%b}' % dumps(sent_as)
        if (balance := balance_of(data)) is not None:
            more += b',"balance":{"N":"%b"}' % balance
        if self._retention_s:
            more += b',"%b":{"N":"%d"}' % (TTL_ATTRIBUTE.encode(), message.sent_ns // NS + self._retention_s)
        try:
            kind, body = b"S", dumps(data.decode())
        except UnicodeDecodeError:
            kind, body = b"B", dumps(b64encode(data).decode())
        row = self._row % (dumps(client_id), dumps(key), time.encode(), kind, body, more)
        return Item((client_id, key), row)


class EventRows:
    """Makes the rows of this process; all rows of a batch share one `archived_at`."""

    def __init__(self, retention_s: int = 0) -> None:
        self.host = ""
        self._retention_s = retention_s

    def batch(self) -> MakeRow[Message]:
        return Rows(self.host, rfc3339(time.time_ns()), self._retention_s).make

    def key(self, message: Message) -> Key:
        client_id, key, _ = event_of(message)
        return client_id, key


def balance_of(body: bytes) -> bytes | None:
    """Return the payload's balance as a DynamoDB number, or None if it has none or one with too many digits."""
    if plain := _plain_balance(body):
        return plain[1]
    if b'"balance"' not in body:
        return None
    try:
        payload = json.loads(body, parse_int=Decimal, parse_float=Decimal, parse_constant=lambda _: None)
        balance = payload.get("balance") if type(payload) is dict else None
    except (ValueError, RecursionError, InvalidOperation):
        return None
    if not isinstance(balance, Decimal) or not balance.is_finite():
        return None
    number = _number(balance)
    return number.encode() if number else None


def _number(balance: Decimal) -> str | None:
    if balance == 0:
        return "0"
    if not -130 <= balance.adjusted() <= 125:
        return None
    digits = len(balance.as_tuple().digits)
    if digits > _DIGITS:  # trailing zeros do not count
        balance = balance.normalize(Context(prec=digits))
        if len(balance.as_tuple().digits) > _DIGITS:
            return None
    return str(balance)


def rfc3339(time_ns: int) -> str:
    """Format as RFC 3339, in UTC with nanoseconds."""
    digits = str(time_ns).zfill(10)
    return f"{_second(digits[:-9])}.{digits[-9:]}Z"


@lru_cache(maxsize=64)
def _second(seconds: str) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(seconds)))


def _see_that_it_is_text(subject: bytes) -> None:
    try:
        subject.rpartition(b".")[2].decode()
    except UnicodeDecodeError:
        raise Unreadable("subject is not UTF-8") from None
