"""What is declared, in NATS's own words and as literals: a server reads them; and what counts as drift."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from control_plane import settings
from control_plane.errors import ProvisioningError
from control_plane.resources import Bucket, Consumer, Limits, Stream, User
from control_plane.settings import Difference, differences, limits_differences, other_limits

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS


def test_a_user() -> None:
    assert settings.user_settings(User("u", publish=("a", "b"), subscribe=("c q",))) == {
        "pub": {"allow": ["a", "b"]}, "sub": {"allow": ["c q"]}, "subs": -1, "data": -1, "payload": -1,
    }  # fmt: skip


def test_a_user_who_answers_and_has_exceptions() -> None:
    user = User("u", publish=("a.>",), subscribe=(), responses=True, deny_publish=("a.b",))
    assert settings.user_settings(user) == {
        "pub": {"allow": ["a.>"], "deny": ["a.b"]}, "sub": {"allow": []}, "resp": {"max": 1, "ttl": 60 * SECOND_NS},
        "subs": -1, "data": -1, "payload": -1,
    }  # fmt: skip


def test_the_user_that_stands_for_all_devices() -> None:
    user = User("device", publish=("data.{{name()}}.>",), subscribe=("pulse",), devices=True)
    assert settings.user_settings(user) == {
        "pub": {"allow": ["data.{{name()}}.>"]}, "sub": {"allow": ["pulse"]}, "subs": -1, "data": -1, "payload": -1,
        "bearer_token": True, "allowed_connection_types": ["MQTT"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "discard", "batched"),
    [({}, "old", {}), ({"discard_new": True, "allow_batched": True}, "new", {"allow_batched": True})],
)
def test_a_stream(declared: dict[str, Any], discard: str, batched: dict[str, bool]) -> None:
    stream = Stream("s", ("a.>",), max_age_s=7 * 86_400, max_bytes=10, duplicate_window_s=120, **declared)
    assert settings.stream_settings(stream) == {
        "name": "s", "subjects": ["a.>"], "retention": "limits", "storage": "file", "discard": discard,
        "max_age": 7 * DAY_NS, "max_bytes": 10, "max_consumers": -1, "max_msgs": -1, "max_msgs_per_subject": -1,
        "max_msg_size": -1, "num_replicas": 3, "duplicate_window": 120 * SECOND_NS, "no_ack": False, **batched,
        "allow_direct": False, "allow_rollup_hdrs": False, "deny_delete": False, "deny_purge": False, "sealed": False,
    }  # fmt: skip


def test_a_bucket_as_a_stream_and_as_synadia_has_it() -> None:
    bucket = Bucket("config", max_bytes=10, replicas=1)
    assert settings.bucket_stream_settings(bucket) == {
        "name": "KV_config", "subjects": ["$KV.config.>"], "retention": "limits", "storage": "file", "discard": "new",
        "max_age": 0, "max_bytes": 10, "max_consumers": -1, "max_msgs": -1, "max_msgs_per_subject": 1,
        "max_msg_size": -1, "num_replicas": 1, "duplicate_window": 120 * SECOND_NS, "allow_rollup_hdrs": True,
        "allow_direct": True, "deny_delete": True,
    }  # fmt: skip
    assert settings.bucket_settings(bucket) == {
        "bucket": "config", "storage": "file", "history": 1, "max_age": 0, "max_bytes": 10, "max_value_size": -1,
        "num_replicas": 1, "compression": False,
    }  # fmt: skip


def test_a_bucket_whose_keys_expire() -> None:
    plain = settings.bucket_stream_settings(Bucket("b", max_bytes=10))
    expiring = settings.bucket_stream_settings(Bucket("b", max_bytes=10, markers_s=86_400))
    added = {"allow_msg_ttl": True, "allow_atomic": True, "subject_delete_marker_ttl": DAY_NS}
    assert expiring == {**plain, **added}


def test_of_a_stream_of_the_servers_only_the_bounds_are_ours() -> None:
    stream = Stream("$MQTT_msgs", ("a",), 0, 10, 120, interest=True, discard_new=True, of_server=True)
    assert settings.stream_settings(stream)["retention"] == "interest"
    there = {"max_bytes": -1, "discard": "old", "max_age": 5, "subjects": ["b"]}
    assert settings.ours(stream, there) == (
        {"max_bytes": 10, "discard": "new"}, {"max_bytes": -1, "discard": "old"},
    )  # fmt: skip
    assert settings.ours(stream, None)[1] is None
    own = replace(stream, of_server=False)
    assert settings.ours(own, there) == (settings.stream_settings(own), there)


def test_a_consumer_of_several_subjects() -> None:
    wanted = settings.consumer_settings(Consumer("s", "c", 30, 100, filters=("a", "b")))
    told = settings.as_consumer_settings({**wanted, "filter_subjects": ["b", "a"]})
    assert differences("consumer", wanted, told) == ()
    assert differences("consumer", wanted, {**told, "filter_subjects": ["a"]}) == (
        Difference("filter_subjects", ["a", "b"], ["a"]),
    )


@pytest.mark.parametrize("one", ["", "a.>"])
def test_a_consumer_is_what_a_server_tells_of_it(one: str) -> None:
    consumer = Consumer("s", "c", ack_wait_s=30, max_ack_pending=100, filters=(one,) if one else ())
    wanted = settings.consumer_settings(consumer)
    assert wanted == {
        "name": "c", "durable_name": "c", "ack_policy": "explicit", "deliver_policy": "all",
        "replay_policy": "instant", "ack_wait": 30 * SECOND_NS, "max_ack_pending": 100, "max_deliver": -1,
        "filter_subjects": [one] if one else [], "num_replicas": 0,
    }  # fmt: skip
    told = {name: value for name, value in wanted.items() if name != "filter_subjects"}
    told |= {"filter_subject": one} if one else {}
    heard = settings.as_consumer_settings({**told, "max_waiting": 512})
    assert heard.get("filter_subjects", []) == wanted["filter_subjects"]
    assert heard.keys() - wanted.keys() == {"max_waiting"}
    assert differences("consumer", wanted, heard) == ()


def test_limits() -> None:
    wanted = settings.limits_settings(Limits(connections=1, subscriptions=2, disk_bytes=3, memory_bytes=4, streams=5))
    assert wanted == {"conn": 1, "subs": 2, "disk_storage": 3, "mem_storage": 4, "streams": 5, "consumer": 100}
    assert limits_differences(wanted, dict(wanted)) == ()
    assert limits_differences(wanted, {**wanted, "streams": 9, "payload": 7}) == (Difference("streams", 5, 9),)
    assert limits_differences(wanted, {}) == (
        Difference("conn", 1, -1), Difference("subs", 2, -1), Difference("disk_storage", 3, 0),
        Difference("mem_storage", 4, 0), Difference("streams", 5, 0), Difference("consumer", 100, 0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "is_told"),
    [
        ("wildcards", True, False),
        ("wildcards", False, True),
        ("leaf", 0, True),
        ("leaf", -1, False),
        ("leaf", None, False),
        ("leaf", 3, True),
        ("max_ack_pending", 0, False),
        ("max_ack_pending", -1, False),
        ("max_ack_pending", 5, True),
        ("conn", 5, False),
        ("tiered_limits", {"R3": {}}, False),
    ],
)
def test_an_undeclared_limit_is_reported_where_it_limits(name: str, value: object, is_told: bool) -> None:
    assert other_limits({"conn": 1}, {name: value}) == ({name: value} if is_told else {})


@pytest.mark.parametrize(
    ("kind", "wanted", "actual", "drift"),
    [
        ("user", {"pub": {"allow": ["a", "b"]}}, {"pub": {"allow": ["b", "a"]}}, []),
        ("user", {"pub": {"allow": ["a"]}}, {"pub": {"allow": ["a", "b"]}}, ["pub.allow"]),
        ("user", {"pub": {"deny": ["a"]}}, {"pub": {}}, ["pub.deny"]),
        ("user", {}, {"sub": {"deny": ["a"]}}, ["sub.deny"]),
        ("user", {"sub": {"allow": []}}, {}, []),
        ("user", {"subs": -1}, {}, []),
        ("user", {"subs": -1}, {"subs": 0}, ["subs"]),
        ("user", {}, {"bearer_token": True}, ["bearer_token"]),
        ("user", {}, {"bearer_token": False, "tags": ["x"], "src": None}, []),
        ("user", {"times": []}, {"times": [{"start": "08:00:00"}]}, ["times"]),
        ("stream", {"subs": 0}, {}, []),
        ("stream", {"max_msgs": -1}, {"max_msgs": 0}, []),
        ("stream", {"max_msgs": -1}, {"max_msgs": 5}, ["max_msgs"]),
        ("stream", {}, {"compression": "none", "persist_mode": "default"}, []),
        ("stream", {}, {"compression": "s2"}, ["compression"]),
        ("stream", {"retention": "limits"}, {"retention": "none"}, ["retention"]),
        ("stream", {"name": "a"}, {"name": "b", "metadata": {"x": "y"}}, []),
        ("bucket", {"history": 1}, {}, []),
        ("bucket", {"history": 1}, {"history": 2}, ["history"]),
        ("stream", {"subjects": ["a", "b"]}, {"subjects": ["b", "a"]}, []),
        ("stream", {"sources": ["a", "b"]}, {"sources": ["b", "a"]}, ["sources"]),
    ],
)
def test_what_counts_as_drift(kind: str, wanted: dict[str, Any], actual: dict[str, Any], drift: list[str]) -> None:
    assert [difference.field for difference in differences(kind, wanted, actual)] == drift


def test_what_is_there_for_good_cannot_be_corrected() -> None:
    settings.check_changeable("stream", "s", {"max_msgs": 5}, {"max_msgs": 6})
    with pytest.raises(ProvisioningError, match="storage of stream s is memory and cannot become file; delete"):
        settings.check_changeable("stream", "s", {"max_msgs": 5, "storage": "file"}, {"storage": "memory"})


def test_what_nobody_declared_is_taken_back() -> None:
    strange = {"max_msgs": 5, "compression": "s2", "mirror": {"name": "x"}, "republish": None, "sealed": True, "a": 1}
    assert settings.cleared("stream", {"max_msgs": -1}, strange) == {"compression": "none", "sealed": False, "a": 0}
