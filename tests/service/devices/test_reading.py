"""A reading's row: what is in it, and what can be none."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from typing import Any

import orjson
import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import given
from hypothesis import strategies as st

from service.contracts import devices as contract
from service.devices.msg_pb2 import Connect, SensorData
from service.devices.reading import EPOCH_MAX, ReadingRows, entry_id, number
from service.dynamodb.writer import Key
from service.sources.jetstream.message import StreamMessage
from service.writing.rows import Unreadable
from tests.support.archive import delivered

STORED_S = 1_764_052_345
NAN, INFINITE = b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f"
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def reply(sequence: int, stored_ns: int = STORED_S * 1_000_000_000 + 123_456_789) -> bytes:
    return b"$JS.ACK.$MQTT_msgs.devices-data.1.%d.7.%d.0" % (sequence, stored_ns)


def message(data: bytes, subject: str = "data.d1.room", *, sequence: int = 42) -> StreamMessage:
    block = b"NATS/1.0\r\nNmqtt-Pub: 1\r\n\r\n"
    return delivered(f"{contract.MQTT_PREFIX}{subject}".encode(), reply(sequence), data, block)


def reading(device: str = "d1", epoch: int = STORED_S - 1, **values: float) -> bytes:
    return SensorData(device=device, epoch=epoch, **values).SerializeToString()


def row_of(given: StreamMessage, facility: str = "", retention_s: int = 0) -> dict[str, Any]:
    item = ReadingRows(facility, retention_s, lambda *_: None).batch()(given)
    row: dict[str, Any] = orjson.loads(item.encoded)
    assert item.key == (row["device"]["S"], row["reading"]["S"])
    return row


def key_of(given: StreamMessage) -> Key:
    return ReadingRows("", 0, lambda *_: None).key(given)


def test_a_row_has_the_reading_its_place_and_its_time() -> None:
    given = message(reading(temp=21.3, rh=55.25), "data.d1.a//b.c")
    row = row_of(given, facility="7", retention_s=86_400)
    assert row == {
        "device": {"S": "d1"},
        "reading": {"S": f"001764052344#{row['reading']['S'][13:]}"},
        "epoch": {"N": "1764052344"},
        "temp": {"N": "21.3"},
        "rh": {"N": "55.25"},
        "sensor": {"S": "a.b/c"},
        "facility": {"S": "7"},
        "received_ms": {"N": "1764052345123"},
        "entry_id": {"N": str(entry_id(row["reading"]["S"]))},
        "expires_at": {"N": str(STORED_S + 86_400)},
    }
    assert "facility" not in row_of(given)


def test_what_is_sent_again_is_the_same_row() -> None:
    first, again = message(reading(temp=1.0)), message(reading(temp=1.0), sequence=43)
    assert key_of(first) == key_of(again)


@pytest.mark.parametrize(
    "other",
    [
        message(reading(temp=1.5)),
        message(reading(temp=1.0), "data.d1.hall"),
        message(reading(temp=1.0, epoch=STORED_S)),
        message(reading("d2", temp=1.0), "data.d2.room"),
    ],
    ids=["value", "sensor", "second", "device"],
)
def test_another_reading_is_another_row(other: StreamMessage) -> None:
    assert key_of(other) != key_of(message(reading(temp=1.0)))


@pytest.mark.parametrize(
    ("epoch", "more"),
    [
        (STORED_S - 300, {}),
        (STORED_S + 300, {}),
        (STORED_S - 301, {"clock_skew_s": {"N": "-301"}}),
        (STORED_S + 301, {"clock_skew_s": {"N": "301"}}),
        (1, {"clock_skew_s": {"N": str(1 - STORED_S)}}),
        (EPOCH_MAX, {"clock_skew_s": {"N": str(EPOCH_MAX - STORED_S)}}),
    ],
)
def test_a_clock_that_is_wrong_is_noted_and_believed(epoch: int, more: dict[str, Any]) -> None:
    row = row_of(message(reading(epoch=epoch)))
    assert row["epoch"] == {"N": str(epoch)}
    assert row["reading"]["S"].startswith(f"{epoch:012d}#")
    assert {name: row[name] for name in ("clock_skew_s", "clock") if name in row} == more


def test_a_device_without_a_clock_has_the_second_of_arrival() -> None:
    row = row_of(message(reading(epoch=0)))
    assert (row["epoch"], row["clock"]) == ({"N": str(STORED_S)}, {"S": "none"})
    assert row["reading"]["S"].startswith(f"{STORED_S:012d}#")
    assert "clock_skew_s" not in row


@given(
    device=st.from_regex(contract.DEVICE_ID, fullmatch=True),
    temp=floats,
    rh=floats,
    epoch=st.integers(1, EPOCH_MAX),
    sensor=st.text(st.characters(exclude_characters="\0 ./+#", exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_any_reading_is_a_row(device: str, temp: float, rh: float, epoch: int, sensor: str) -> None:
    row = row_of(message(reading(device, epoch, temp=temp, rh=rh), f"data.{device}.{sensor}"), facility='"\n')
    for name, value in (("temp", temp), ("rh", rh)):
        TypeSerializer().serialize(Decimal(row[name]["N"]))
        assert struct.pack("f", float(row[name]["N"])) == struct.pack("f", value or 0.0)
    assert (row["device"], row["sensor"], row["epoch"]) == ({"S": device}, {"S": sensor}, {"N": str(epoch)})
    assert 0 <= int(row["entry_id"]["N"]) < 2**31
    assert len(row["reading"]["S"]) == 25


@given(floats)
def test_a_number_has_the_fewest_digits_that_give_the_same_float(value: float) -> None:
    written = [f"{value or 0.0:.{digits}G}" for digits in range(6, 10)]
    same = [each for each in written if struct.pack("f", float(each)) == struct.pack("f", value or 0.0)]
    assert number(value).decode() == same[0]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (message(b""), "payload names no device, and the topic's is d1"),
        (message(Connect(session=1).SerializeToString()), "names no device"),
        (message(reading("d2")), "payload is of device 'd2', and the topic's is d1"),
        (message(b"\x0a\x02\xff\xfe"), "payload is not a msg.SensorData"),
        (message(b"\xff" * 8), "payload is not a msg.SensorData"),
        (message(b'{"temp":21}'), "payload is not a msg.SensorData"),
        (message(reading() + b"\x15" + NAN), "temp nan and rh 0.0 are not both numbers"),
        (message(reading() + b"\x1d" + INFINITE), "temp 0.0 and rh inf are not both numbers"),
        (message(reading(epoch=-1)), "epoch -1 is not a time in seconds since 1970"),
        (message(reading(epoch=STORED_S * 1000)), f"epoch {STORED_S}000 is not a time in seconds"),
        (message(reading() + b"\x7a\xff\x1f" + b"x" * 4095), "a payload of 4108 bytes, more than 4096"),
        (message(reading(), f"data.d1.{'x' * 4096}"), "a topic of 4115 bytes"),
        (message(reading(), "data.d1"), "is not data/DEVICE/SENSOR"),
        (message(reading("a.b"), "data.a//b.t"), "has no device id"),
        (message(reading(), "lwt.d1"), "a message of the kind lwt"),
        (delivered(b"$MQTT.msgs.data.d1.\xff", reply(1), reading(), b""), "topic is not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_reading_is_refused_with_the_reason(given: StreamMessage, why: str) -> None:
    seen: list[str] = []
    rows = ReadingRows("", 0, lambda device, *_: seen.append(device))
    with pytest.raises(Unreadable, match=why):
        rows.batch()(given)
    assert seen == []
    assert all(rows.key(given))


@given(data=st.binary(max_size=60), subject=st.binary(max_size=40))
def test_bytes_of_any_kind_are_a_row_or_refused(data: bytes, subject: bytes) -> None:
    given = delivered(b"$MQTT.msgs.data." + subject, reply(1), data, b"")
    rows = ReadingRows("", 0, lambda *_: None)
    rows.key(given)
    try:
        row = orjson.loads(rows.batch()(given).encoded)
    except Unreadable:
        return
    assert row["device"]["S"]
    assert all(math.isfinite(float(row[name]["N"])) for name in ("temp", "rh"))


def test_a_payload_of_the_largest_size_is_a_reading() -> None:
    padded = reading() + b"\x7a\xf1\x1f"
    assert row_of(message(padded + b"x" * (contract.READING_BYTES - len(padded))))["device"] == {"S": "d1"}


def test_a_device_is_seen_with_the_sequence_and_time_of_its_reading() -> None:
    seen: list[tuple[str, int, int]] = []
    ReadingRows("", 0, lambda *each: seen.append(each)).batch()(message(reading(), sequence=7))
    assert seen == [("d1", 7, STORED_S * 1_000_000_000 + 123_456_789)]


def test_numbers_of_rows_differ_and_never_change() -> None:
    assert entry_id("001764052344#0000ffffffff") == 2**31 - 1
    assert entry_id("001764052344#ffff00000002") == 1
