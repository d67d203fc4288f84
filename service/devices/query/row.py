"""A row of the table `readings` as a reading, as a gRPC message, and as JSON."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.contracts import devices as contract
from service.devices.query import query_pb2 as pb

EPOCH_MAX: Final = 999_999_999_999
"""Seconds; the row's key has twelve digits."""
_INT32_MAX: Final = 2**31 - 1
_FLOAT: Final = struct.Struct("<f")  # without the "<", a number out of range is infinite


class OtherForm(Exception):
    """The row is not a reading: another program put it into the table."""


@dataclass(frozen=True, slots=True)
class Reading:
    device: str
    epoch: int
    """Seconds since 1970, by the device's clock."""
    temp: float
    rh: float
    entry_id: int
    facility: str | None
    sensor: str | None
    """This and the following are None in a stream, which does not read them."""
    received_ms: int | None
    """When nats-server received it, in milliseconds since 1970."""
    clock_skew_s: int | None
    """Seconds by which the device's clock is ahead, if that is a lot."""
    clock: str | None
    """"none" if the device has no time: `epoch` is then that of its arrival."""


def reading_of(row: Mapping[str, Any]) -> Reading:
    """Return the reading in a row of DynamoDB's JSON. Raise `OtherForm` if it is not a reading.

    A row without facility, sensor or time of arrival is a reading too: old ones may have been imported.
    """
    try:
        reading = Reading(
            device=row[contract.PARTITION_KEY]["S"],
            epoch=int(row["epoch"]["N"]),
            temp=_float32(row["temp"]["N"]),
            rh=_float32(row["rh"]["N"]),
            entry_id=int(row["entry_id"]["N"]),
            facility=_text(row, "facility"),
            sensor=_text(row, "sensor"),
            received_ms=_integer(row, "received_ms"),
            clock_skew_s=_integer(row, "clock_skew_s"),
            clock=_text(row, "clock"),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise OtherForm from error
    if not (0 <= reading.epoch <= EPOCH_MAX and -_INT32_MAX <= reading.entry_id <= _INT32_MAX):
        raise OtherForm
    return reading


def encode(reading: Reading) -> bytes:
    """Return its encoded `SensorRows`. The facility's id is its name if that is a number, else 0."""
    return pb.SensorRows(
        entry_id=reading.entry_id, facility_id=_facility_id(reading.facility), device=reading.device,
        temp=reading.temp, rh=reading.rh, epoch=reading.epoch,
    ).SerializeToString()  # fmt: skip


def shown(reading: Reading) -> dict[str, Any]:
    """Return its known fields except the device, for JSON."""
    values = {
        "epoch": reading.epoch, "temp": reading.temp, "rh": reading.rh, "sensor": reading.sensor,
        "facility": reading.facility, "received_ms": reading.received_ms, "clock_skew_s": reading.clock_skew_s,
        "clock": reading.clock, "entry_id": reading.entry_id,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def _float32(number: str) -> float:
    """Return a number that fits into a 32-bit float. Raise `OverflowError` for a larger one."""
    value = float(number)
    _FLOAT.pack(value)
    return value


def _text(row: Mapping[str, Any], name: str) -> str | None:
    text = row.get(name, {}).get("S")
    return text if isinstance(text, str) else None


def _integer(row: Mapping[str, Any], name: str) -> int | None:
    number = row.get(name, {}).get("N")
    return int(number) if isinstance(number, str) and number.lstrip("-").isdecimal() else None


def _facility_id(facility: str | None) -> int:
    if facility and facility.isascii() and facility.isdecimal() and len(facility) <= 10:
        number = int(facility)
        return number if number <= _INT32_MAX else 0
    return 0
