"""Turn the subject of a stored MQTT message back into its topic: what it is, of which device, of which sensor.

How nats-server turns a topic into a subject:
https://docs.nats.io/running-a-nats-service/configuration/mqtt#mqtt-topics-and-nats-subjects
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from service.contracts import devices as contract
from service.writing.rows import Unreadable

DATA: Final = "data"
CONNECT: Final = "connect"
LWT: Final = "lwt"
SHOWN: Final = 100
"""Most characters of a topic in a reason."""
_is_device: Final = re.compile(contract.DEVICE_ID).fullmatch
_WRITTEN: Final = {"/.": "/", "//": ".", ".": "/", "/": ""}
"""What the server writes -> what the device wrote. The slash alone stands beside an empty level at an end."""
_marks: Final = re.compile(r"/\.|//|[./]").sub


@dataclass(frozen=True, slots=True)
class Topic:
    kind: str
    """`data`, `connect` or `lwt`."""
    device: str
    sensor: str
    """The rest of a `data` topic, with any character that a topic may have; else empty."""


def topic_of(subject: str) -> Topic:
    """Return the topic of a message's subject in `$MQTT_msgs`. Raise `Unreadable` if no device has it."""
    topic = written(subject)
    kind, _, rest = topic.partition("/")
    device, slash, sensor = rest.partition("/")
    if kind == DATA:
        if not sensor:
            raise Unreadable(f"topic {topic[:SHOWN]!r} is not data/DEVICE/SENSOR")
    elif slash or kind not in {CONNECT, LWT}:
        raise Unreadable(f"topic {topic[:SHOWN]!r} is not data/DEVICE/SENSOR, connect/DEVICE or lwt/DEVICE")
    if not _is_device(device):
        raise Unreadable(f"topic {topic[:SHOWN]!r} has no device id ({contract.DEVICE_ID})")
    return Topic(kind, device, sensor)


def written(subject: str) -> str:
    """Return the topic as the device wrote it: `a.b` is stored as `a//b`, an empty level as `/`."""
    stored = subject.removeprefix(contract.MQTT_PREFIX)
    if "/" not in stored:
        return stored.replace(".", "/")
    return _marks(lambda mark: _WRITTEN[mark[0]], stored)
