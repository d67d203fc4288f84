"""A topic is turned back from its subject, exactly as the device wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contracts import devices as contract
from service.devices.topic import Topic, topic_of, written
from service.writing.rows import Unreadable
from tests.support.devices.world import DevicesWorld

PREFIX = contract.MQTT_PREFIX
TOPICS = (
    "data/d/t", "data/d/a.b", "data/d//x", "data/d/a//b", "data/d/a/", "data/d/./", "data/d/a./b", "data/d/.",
    "data/d/ü", "data/d/..", "data/d/a.//.b//", "data/d/$x",
)  # fmt: skip


def stored(topic: str) -> str:
    """Return the subject as nats-server makes it: `mqttToNATSSubjectConversion` in its server/mqtt.go, line by line.

    https://github.com/nats-io/nats-server/blob/main/server/mqtt.go
    """
    made = ""
    for at, character in enumerate(topic):
        if character == ".":
            made += "//"
        elif character != "/":
            made += character
        elif at == 0 or made[-1] == ".":
            made += "/."
        elif at == len(topic) - 1 or topic[at + 1] == "/":
            made += "./"
        else:
            made += "."
    return made + "/" if made.endswith(".") else made


@pytest.mark.parametrize(
    ("subject", "topic"),
    [
        ("data.d1.t", Topic("data", "d1", "t")),
        ("data.d1.a.b", Topic("data", "d1", "a/b")),
        ("data.d1.a//b", Topic("data", "d1", "a.b")),
        ("data.d./.x", Topic("data", "d", "/x")),
        ("connect.d_1-A", Topic("connect", "d_1-A", "")),
        ("lwt.d", Topic("lwt", "d", "")),
    ],
)
def test_a_subject_is_a_topic(subject: str, topic: Topic) -> None:
    assert topic_of(PREFIX + subject) == topic


@pytest.mark.parametrize(
    ("subject", "why"),
    [
        ("data.d", "'data/d' is not data/DEVICE/SENSOR"),
        ("data.d./", "'data/d/' is not data/DEVICE/SENSOR"),
        ("data.a//b.t", "'data/a.b/t' has no device id"),
        ("data./.t", "'data//t' has no device id"),
        (f"data.{'d' * 37}.t", "has no device id"),
        ("data.*.t", "'data/*/t' has no device id"),
        ("connect.d.x", "is not data/DEVICE/SENSOR, connect/DEVICE or"),
        ("connect", "has no device id"),
        ("lwt.a//b", "'lwt/a.b' has no device id"),
        ("pulse", "is not data/DEVICE/SENSOR, connect/DEVICE or"),
        ("", "is not data/DEVICE/SENSOR, connect/DEVICE or"),
    ],
)
def test_what_no_device_may_publish_on_is_unreadable(subject: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why.replace("*", r"\*")):
        topic_of(PREFIX + subject)


@given(st.text(st.sampled_from("./ab"), min_size=1, max_size=12))
def test_two_topics_are_never_one(sensor: str) -> None:
    assert written(PREFIX + stored(f"data/d/{sensor}")) == f"data/d/{sensor}"


async def test_the_servers_own_subjects_are_read(devices: DevicesWorld) -> None:
    device = await devices.connect("d")
    for topic in TOPICS:
        await device.publish(topic, b"")
    await device.disconnect()
    found = [(await devices.admin.get_msg(contract.MQTT_STREAM, 1 + at)).subject or "" for at in range(len(TOPICS))]
    assert [written(subject) for subject in found] == list(TOPICS)
    assert found == [PREFIX + stored(topic) for topic in TOPICS]
