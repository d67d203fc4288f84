"""Turn the subject of a stored MQTT message back into its topic: what it is, of which device, of which sensor.

How nats-server turns a topic into a subject: https://docs.nats.io/running-a-nats-service/configuration/mqtt
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from service.contracts import devices as contract
from service.writing.rows import Unreadable

DATA: Final = "data"
CONNECT: Final = "connect"
LWT: Final = "lwt"
CACHED: Final = 4096
"""Topics remembered: a device publishes on the same one again and again."""
SHOWN: Final = 100
"""Most characters of a topic in a reason."""
_is_device: Final = re.compile(contract.DEVICE_ID).fullmatch
_marks: Final = re.compile(r"/\.|//|[./]").sub
_TOPIC: Final = {"/.": "/", "//": ".", ".": "/", "/": ""}
"""What the server writes -> what the device wrote. A lone slash stands for an empty level."""


@dataclass(frozen=True, slots=True)
class Topic:
    kind: str
    """`data`, `connect` or `lwt`."""
    device: str
    sensor: str
    """The rest of a `data` topic, which may hold any character that a topic may; else empty."""


@lru_cache(maxsize=CACHED)
def topic_of(subject: str) -> Topic:
    """Return the topic of a message's subject in `$MQTT_msgs`. Raise `Unreadable` if no device may publish on it."""
    kind, _, rest = _topic(subject).partition("/")
    device, slash, sensor = rest.partition("/")
    if kind == DATA:
        if not sensor:
            raise _unreadable(subject, "is not data/DEVICE/SENSOR")
    elif kind not in {CONNECT, LWT} or slash:
        raise _unreadable(subject, "is none of data/DEVICE/SENSOR, connect/DEVICE and lwt/DEVICE")
    if not _is_device(device):
        raise _unreadable(subject, f"has no device id ({contract.DEVICE_ID})")
    return Topic(kind, device, sensor)


def _topic(subject: str) -> str:
    return _marks(lambda mark: _TOPIC[mark[0]], subject.removeprefix(contract.MQTT_PREFIX))


def _unreadable(subject: str, why: str) -> Unreadable:
    return Unreadable(f"topic {_topic(subject)[:SHOWN]!r} {why}")
