"""Turn a reading, as a device published it, into its row (docs/adr/0017-devices.md)."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from google.protobuf.message import DecodeError
from orjson import dumps

from service.contracts import devices as contract
from service.devices.msg_pb2 import SensorData
from service.devices.topic import DATA, topic_of
from service.dynamodb.writer import Item, Key
from service.sources.jetstream.message import StreamMessage
from service.writing.rows import MakeRow, Unreadable

NS: Final = 1_000_000_000
MS: Final = 1_000_000
EPOCH_MAX: Final = 999_999_999_999
"""Twelve digits, as many as the row's key has."""
SKEW_S: Final = 300
"""A clock that differs by more than this from the server's has its difference in the row."""
_ROW: Final = (
    b'{"%b":{"S":"%%b"},"%b":{"S":"%%b"},"epoch":{"N":"%%d"},"temp":{"N":"%%b"},"rh":{"N":"%%b"},"sensor":{"S":%%b},'
    b'"received_ms":{"N":"%%d"},"entry_id":{"N":"%%d"}%%b}'
) % (contract.PARTITION_KEY.encode(), contract.SORT_KEY.encode())
_FLOAT: Final = struct.Struct("f")


class ReadingRows:
    """Makes the rows of one facility.

    Calls `seen` for each reading: device, and the message's sequence and time (ns since 1970) in its stream.
    """

    def __init__(self, facility: str, retention_s: int, seen: Callable[[str, int, int], None]) -> None:
        self._same = b',"facility":{"S":%b}' % dumps(facility) if facility else b""
        self._retention_s = retention_s
        self._seen = seen

    def batch(self) -> MakeRow[StreamMessage]:
        return self._make

    def key(self, message: StreamMessage) -> Key:
        """Return the key of its row; for a message that is not a reading, its topic and how its key would end."""
        try:
            item = self._row(message)
        except Unreadable:
            return text(message.subject).removeprefix(contract.MQTT_PREFIX), digest(message)
        return item.key

    def _make(self, message: StreamMessage) -> Item:
        item = self._row(message)
        self._seen(item.key[0], message.sequence, message.sent_ns)
        return item

    def _row(self, message: StreamMessage) -> Item:
        device, sensor, reading = reading_of(message)
        received_s = message.sent_ns // NS
        more, epoch = self._same, reading.epoch
        if epoch == 0:
            epoch = received_s
            more += b',"clock":{"S":"none"}'
        elif abs(skew := epoch - received_s) > SKEW_S:
            more += b',"clock_skew_s":{"N":"%d"}' % skew
        if self._retention_s:
            more += b',"%b":{"N":"%d"}' % (contract.TTL_ATTRIBUTE.encode(), received_s + self._retention_s)
        key = f"{epoch:012d}#{digest(message)}"
        row = _ROW % (
            device.encode(), key.encode(), epoch, number(reading.temp), number(reading.rh), dumps(sensor),
            message.sent_ns // MS, entry_id(key), more,
        )  # fmt: skip
        return Item((device, key), row)


def reading_of(message: StreamMessage) -> tuple[str, str, SensorData]:
    """Return device, sensor and reading of a message. Raise `Unreadable` if it cannot become a row."""
    for what, size in (("a payload", len(message.data)), ("a topic", len(message.subject))):
        if size > contract.READING_BYTES:
            raise Unreadable(f"{what} of {size} bytes, more than {contract.READING_BYTES}")
    try:
        topic = topic_of(message.subject.decode())
    except UnicodeDecodeError:
        raise Unreadable("topic is not UTF-8") from None
    if topic.kind != DATA:
        raise Unreadable(f"a message of the kind {topic.kind}")
    try:
        reading = SensorData.FromString(message.data)
    except DecodeError:
        raise Unreadable("payload is not a msg.SensorData") from None
    if reading.device != topic.device:
        named = f"is of device {reading.device[:36]!r}" if reading.device else "names no device"
        raise Unreadable(f"payload {named}, and the topic's is {topic.device}")
    if not (math.isfinite(reading.temp) and math.isfinite(reading.rh)):
        raise Unreadable(f"temp {reading.temp} and rh {reading.rh} are not both numbers")
    if not 0 <= reading.epoch <= EPOCH_MAX:
        raise Unreadable(f"epoch {reading.epoch} is not a time in seconds since 1970")
    return topic.device, topic.sensor, reading


def digest(message: StreamMessage) -> str:
    """Return 12 hexadecimal digits of the message's content, the same for a message that the device sent again."""
    return blake2b(b"%b %b" % (message.subject, message.data), digest_size=6).hexdigest()


def entry_id(key: str) -> int:
    """Return the number of a row for clients of the first API, whose rows had an int32 as their primary key.

    It is 31 bits of the content's hash, the same whenever it is read. Two rows of many may share one: `device` and
    `reading` identify a row, this does not.
    """
    return int(key[-8:], 16) >> 1


def number(value: float) -> bytes:
    """Return a finite 32-bit float as a DynamoDB number: of six to nine digits, the fewest that give it again."""
    for digits in (6, 7, 8):
        written = b"%.*G" % (digits, value or 0.0)  # DynamoDB has no negative zero
        if _FLOAT.unpack(_FLOAT.pack(float(written)))[0] == value:
            return written
    return b"%.9G" % value


def text(subject: bytes) -> str:
    return subject.decode(errors="backslashreplace")
