"""What each optional role needs: `create --with NAME` makes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from control_plane.resources import DAY_S, MIB, NO_MORE, Account, Bucket, Consumer, Limits, Part, Stream, User
from service.contracts import archive, devices, queue
from service.contracts.stream import STREAM, STREAM_SUBJECTS

BALANCES: Final = Stream(
    name=STREAM,
    subjects=STREAM_SUBJECTS,
    max_age_s=7 * DAY_S,
    max_bytes=10 * MIB,
    allow_batched=True,
)


def _dead_letters(name: str, subject: str, max_bytes: int) -> Stream:
    return Stream(name, (f"{subject}.*",), max_age_s=30 * DAY_S, max_bytes=max_bytes, discard_new=True)


ARCHIVE: Final = Part(
    user=User(name=archive.USER, publish=archive.PUBLISH, subscribe=archive.SUBSCRIBE, responses=True),
    streams=(
        # Holds events that are not archived yet; `create --stream-size` sets another size.
        replace(BALANCES, max_bytes=archive.STREAM_BYTES),
        _dead_letters(archive.DEAD_STREAM, archive.DEAD_SUBJECT, archive.DEAD_BYTES),
    ),
    consumers=(
        Consumer(
            stream=STREAM,
            name=archive.CONSUMER,
            ack_wait_s=archive.ACK_WAIT_S,
            max_ack_pending=archive.MAX_ACK_PENDING,
        ),
    ),
    limits=replace(NO_MORE, disk_bytes=3 * (archive.STREAM_BYTES + archive.DEAD_BYTES)),
)

QUEUE: Final = Part(
    user=User(name=queue.USER, publish=queue.PUBLISH, subscribe=queue.SUBSCRIBE),
    streams=(_dead_letters(queue.DEAD_STREAM, queue.DEAD_SUBJECT, queue.DEAD_BYTES),),
    consumers=(
        Consumer(
            stream=queue.STREAM,
            name=queue.CONSUMER,
            ack_wait_s=queue.ACK_WAIT_S,
            max_ack_pending=queue.MAX_ACK_PENDING,
        ),
    ),
    limits=replace(NO_MORE, disk_bytes=3 * queue.DEAD_BYTES),
)

DEVICE: Final = User(
    name=devices.DEVICE_SCOPE, publish=devices.DEVICE_PUBLISH, subscribe=devices.DEVICE_SUBSCRIBE, devices=True
)
"""Permissions of each device. The server replaces `{{name()}}` with the device's name, which is its id."""

CONNECTED_DEVICES: Final = 1_000
"""Devices that may be connected; `create --devices` sets another number."""
BACKLOG_BYTES: Final = MIB
"""Space for each device in the server's stream of readings: about 5,000 readings that no role has read yet."""
CONSUMERS_PER_DEVICE: Final = 2
"""A session that subscribes at QoS 1 has its own consumer, and a device that changes its client id leaves one."""
_EVENTS_BYTES: Final = 64 * MIB
_RETAINED_BYTES: Final = 16 * MIB
_RECORDS_BYTES: Final = 64 * MIB
_REGISTER_BYTES: Final = 32 * MIB
_SESSIONS_BYTES: Final = 64 * MIB
"""Space for the server's other streams (`$MQTT_sess`, `$MQTT_out`, `$MQTT_qos2in`), which have no bounds."""

REGISTER: Final = Bucket(name="device-register", max_bytes=_REGISTER_BYTES)
"""The devices that were added, one key each. Only the control plane writes it."""

DEVICES: Final = Part(
    user=User(name=devices.USER, publish=devices.PUBLISH, subscribe=devices.SUBSCRIBE, responses=True),
    others=(DEVICE,),
    streams=(
        Stream(
            name=devices.MQTT_STREAM,
            subjects=(f"{devices.MQTT_PREFIX}>",),
            max_age_s=0,
            max_bytes=CONNECTED_DEVICES * BACKLOG_BYTES,
            interest=True,
            discard_new=True,  # a refused reading gets no PUBACK, so the device sends it again
            of_server=True,
        ),
        Stream(
            name=devices.MQTT_RETAINED_STREAM,
            subjects=("$MQTT.rmsgs.>",),
            max_age_s=0,
            max_bytes=_RETAINED_BYTES,
            per_subject=1,
            of_server=True,
        ),
        Stream(
            name=devices.OUTAGES_STREAM,
            subjects=(f"{devices.EVENT_PREFIX}*.*",),
            max_age_s=30 * DAY_S,
            max_bytes=_EVENTS_BYTES,
        ),
        _dead_letters(devices.DEAD_STREAM, devices.DEAD_SUBJECT, devices.DEAD_BYTES),
    ),
    buckets=(Bucket(name=devices.BUCKET, max_bytes=_RECORDS_BYTES, markers_s=devices.MARKERS_S), REGISTER),
    consumers=tuple(
        Consumer(
            stream=stream,
            name=name,
            ack_wait_s=devices.ACK_WAIT_S,
            max_ack_pending=devices.MAX_ACK_PENDING,
            filters={
                devices.DATA_CONSUMER: (devices.DATA_FILTER,),
                devices.LIFE_CONSUMER: devices.LIFE_FILTERS,
                devices.EXPIRY_CONSUMER: (devices.EXPIRY_FILTER,),
            }.get(name, ()),
        )
        for stream, name in devices.CONSUMERS
    ),
    limits=Limits(
        connections=CONNECTED_DEVICES,
        subscriptions=0,
        disk_bytes=3
        * (
            CONNECTED_DEVICES * BACKLOG_BYTES
            + _RETAINED_BYTES
            + _EVENTS_BYTES
            + devices.DEAD_BYTES
            + _RECORDS_BYTES
            + _REGISTER_BYTES
            + _SESSIONS_BYTES
        ),
        memory_bytes=0,
        streams=6,
        consumers=CONNECTED_DEVICES * CONSUMERS_PER_DEVICE,
    ),
)
"""Readings and presence of MQTT devices (docs/adr/0017-devices.md)."""

PARTS: Final[tuple[Part, ...]] = (ARCHIVE, QUEUE, DEVICES)
"""Parts that `create --with NAME` can create; NAME is the name of the part's user."""


def for_devices(account: Account, number: int) -> Account:
    """Return the account with room for `number` connected devices. It must have the part `DEVICES`."""
    more = number - CONNECTED_DEVICES
    limits = replace(NO_MORE, connections=more, consumers=more * CONSUMERS_PER_DEVICE)
    return replace(account, limits=account.limits.plus(limits)).sized(devices.MQTT_STREAM, number * BACKLOG_BYTES)
