"""Decode connects and wills as devices publish them."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from service.contracts import devices as contract
from service.devices.msg_pb2 import LWT, Connect
from service.devices.presence import record as records
from service.devices.presence.record import LONGEST_S
from service.devices.presence.stream import Stored
from service.devices.topic import CONNECT, DATA, topic_of
from service.writing.rows import Unreadable

Life = records.Connect | records.Will


def life_of(stored: Stored, silence: int) -> tuple[str, Life]:
    """Return the device, and its connect or will. Raise `Unreadable` if the message is neither.

    `silence` applies to a device that names none, in seconds. Numbers out of range are clamped: the server refuses a
    timer of more seconds than it can count, and would refuse it for ever.
    """
    if len(stored.data) > contract.READING_BYTES:
        raise Unreadable(f"a payload of {len(stored.data)} bytes, more than {contract.READING_BYTES}")
    topic = topic_of(stored.subject)
    if topic.kind == DATA:
        raise Unreadable("a reading is no connect and no will")
    kind = Connect if topic.kind == CONNECT else LWT
    try:
        message = kind.FromString(stored.data)
    except DecodeError:
        raise Unreadable(f"payload is not a msg.{kind.__name__}") from None
    if message.device != topic.device:
        named = f"is of device {message.device[:36]!r}" if message.device else "names no device"
        raise Unreadable(f"payload {named}, and the topic's is {topic.device}")
    session = max(0, message.session)
    if isinstance(message, LWT):
        return topic.device, records.Will(stored.seq, stored.at, session, min(max(0, message.delay), LONGEST_S))
    asked = min(max(0, message.silence), LONGEST_S)
    return topic.device, records.Connect(stored.seq, stored.at, session, asked or silence)
