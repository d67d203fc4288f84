"""What is declared, put together: parts, sizes, and what is meant when nothing is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control_plane.parts import DEVICES, for_devices
from control_plane.resources import NO_MORE, Account, Bucket, Consumer, Limits, Part, Stream, User


def stream(name: str, max_bytes: int = 10, replicas: int = 3) -> Stream:
    return Stream(name, (f"{name}.>",), max_age_s=60, max_bytes=max_bytes, duplicate_window_s=10, replicas=replicas)


def disk(some: int) -> Limits:
    return replace(NO_MORE, disk_bytes=some)


ONE, OTHER = User("one", publish=("a",), subscribe=("b",)), User("other", publish=(), subscribe=())
ACCOUNT = Account(Limits(disk_bytes=1000), (ONE,), (stream("a"), stream("b")), (Bucket("k", 1),))


def test_the_defaults_allow_the_least() -> None:
    assert Limits().disk_bytes == 67_108_864
    assert (ONE.responses, ONE.gateway, ONE.deny_publish) == (False, False, ())
    assert (ONE.devices, Bucket("b", 1).markers_s) == (False, 0)
    assert (stream("a").allow_batched, stream("a").discard_new) == (False, False)
    assert (stream("a").interest, stream("a").of_server, stream("a").per_subject) == (False, False, -1)
    assert Consumer("a", "c", ack_wait_s=1, max_ack_pending=1).max_deliver == -1
    assert User("one", ("a",), ("b",), gateway=True) == ONE, "a token for the gateway is no permission"


def test_a_part_adds_what_it_has_and_replaces_what_it_overrides() -> None:
    consumer = Consumer("b", "c", ack_wait_s=1, max_ack_pending=1)
    part = Part(OTHER, streams=(stream("b", 20), stream("c")), consumers=(consumer,), limits=disk(70))
    more = ACCOUNT.plus([part, Part(User("third", (), ()), limits=disk(7))])
    assert more.limits == Limits(disk_bytes=1077)
    assert [user.name for user in more.users] == ["one", "other", "third"]
    assert more.streams == (stream("a"), stream("b", 20), stream("c"))
    assert (more.consumers, more.buckets) == ((consumer,), ACCOUNT.buckets)
    assert more.user("other") == OTHER
    assert ACCOUNT.plus([]) == ACCOUNT


def test_a_part_may_add_users_buckets_and_limits() -> None:
    third, bucket = User("third", (), ()), Bucket("more", 5)
    more = ACCOUNT.plus([Part(OTHER, others=(third,), buckets=(bucket,), limits=Limits(1, 2, 3, 4, 5, 6))])
    assert more.users == (ONE, OTHER, third)
    assert more.buckets == (*ACCOUNT.buckets, bucket)
    assert more.limits == Limits(101, 10_002, 1003, 4, 15, 106)


def test_room_for_devices_is_for_each_of_them() -> None:
    account = ACCOUNT.plus([DEVICES])
    assert for_devices(account, 1_000) == account
    more = for_devices(account, 3_000)
    assert more.limits.connections - account.limits.connections == 2_000
    assert more.limits.consumers - account.limits.consumers == 4_000
    (messages,) = (each for each in more.streams if each.name == "$MQTT_msgs")
    assert messages.max_bytes == 3_000 * 1024**2
    assert more.limits.disk_bytes - account.limits.disk_bytes == 3 * 2_000 * 1024**2


@pytest.mark.parametrize(("max_bytes", "disk_bytes"), [(110, 1300), (10, 1000), (4, 982)])
def test_a_stream_of_another_size_has_the_room_for_it_on_each_replica(max_bytes: int, disk_bytes: int) -> None:
    sized = ACCOUNT.sized("b", max_bytes)
    assert sized.streams == (stream("a"), stream("b", max_bytes))
    assert sized.limits == Limits(disk_bytes=disk_bytes)
    assert sized.users == ACCOUNT.users
