"""What a configuration decides about our use, field by field: the server is the judge of what it stores."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import APIError

from service.customer.events.publisher import EVENT_BYTES
from service.nats.fit import consumer_unfit, stream_unfit
from service.nats.jetstream import check_stream, open_bucket
from service.nats.subjects import covers, overlap
from service.runtime.errors import ServiceError
from tests.support.nats.plain import api, client_of, plain_server

S = 1_000_000_000
SUBJECT = "customer.balance.7"

# Of each field, one or more values, and why our events are not stored; empty: they are.
STREAMS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"subjects": ["customer.balance.*"]}, ""),
    ({"subjects": ["customer.balance.*.x", "other"]}, "does not take customer.balance.*"),
    ({"subjects": ["customer.balance.7"]}, "does not take customer.balance.*"),
    ({"subjects": ["customer.*.*"]}, ""),
    ({"description": "d", "metadata": {"a": "b"}, "num_replicas": 1, "storage": "memory", "compression": "s2"}, ""),
    ({"retention": "workqueue"}, ""),
    ({"retention": "interest"}, ""),
    ({"max_consumers": 1, "max_msgs": 5, "max_age": 60 * S, "first_seq": 9, "duplicate_window": S}, ""),
    ({"max_bytes": 100}, "takes no message of 768 bytes (max_bytes 100)"),
    ({"max_msg_size": 10}, "takes no message of 768 bytes (max_msg_size 10)"),
    ({"max_msg_size": EVENT_BYTES}, ""),
    ({"discard": "new", "max_bytes": 1_000_000}, ""),
    ({"max_msgs_per_subject": 1}, ""),
    ({"discard": "new", "max_msgs_per_subject": 1, "discard_new_per_subject": True}, "(discard_new_per_subject)"),
    ({"no_ack": True}, "acknowledges nothing (no_ack)"),
    ({"sealed": True}, "is sealed"),
    ({"mirror": {"name": "origin"}, "subjects": []}, "is a mirror"),
    ({"sources": [{"name": "origin"}]}, ""),
    ({"deny_delete": True, "deny_purge": True, "allow_direct": True}, ""),
    ({"republish": {"src": ">", "dest": "again.>"}}, ""),
    ({"subject_transform": {"src": "customer.balance.*", "dest": "moved.{{wildcard(1)}}"}}, "(subject_transform)"),
    (
        {
            "subject_transform": {"src": "other.*", "dest": "moved.{{wildcard(1)}}"},
            "subjects": ["other.*", "customer.>"],
        },
        "",
    ),
    ({"allow_msg_ttl": True, "subject_delete_marker_ttl": S, "allow_rollup_hdrs": True}, ""),
    ({"allow_msg_schedules": True, "allow_atomic": True, "allow_batched": True}, ""),
    ({"allow_msg_counter": True}, "is a counter"),
    ({"consumer_limits": {"max_ack_pending": 10}}, ""),
    ({"persist_mode": "async", "num_replicas": 1}, ""),
]
OURS = {"name", "template_owner", "placement", "mirror_direct"}
"""The name, what servers no longer have, and what decides about where alone."""


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with plain_server(tmp_path_factory.mktemp("plain"), jetstream=True) as port, client_of(port) as client:
        await api(client, "STREAM.CREATE.origin", name="origin", subjects=["origin"])
        yield client


async def make(client: Client, changes: dict[str, Any], name: str, subject: str) -> None:
    first = {**changes, "sealed": False}
    await api(client, f"STREAM.CREATE.{name}", **{"name": name, "subjects": [subject], **first})
    if changes.get("sealed"):
        await api(client, f"STREAM.UPDATE.{name}", **{"name": name, "subjects": [subject], **changes})


async def stores(client: Client, name: str, within_s: float) -> bool:
    """Whether the server acknowledges two events of a client, and has them under their subject."""
    for number in range(2):
        headers = {"Nats-Msg-Id": uuid.uuid4().hex, "tracestate": "x" * 512}
        try:
            ack = await client.jetstream().publish(SUBJECT, b"%d" % number, headers=headers, timeout=within_s)
        except (APIError, nats.errors.Error):
            return False
        info = await api(client, f"STREAM.INFO.{name}", subjects_filter=SUBJECT)
        is_kept = info["config"]["retention"] == "interest" or SUBJECT in info["state"].get("subjects", {})
        if ack.stream != name or not is_kept:
            return False
    return True


@pytest.mark.parametrize(("changes", "reason"), STREAMS, ids=[str(changes) for changes, _ in STREAMS])
async def test_a_stream_is_refused_when_the_server_does_not_store_there(
    client: Client, changes: dict[str, Any], reason: str
) -> None:
    name = f"s-{uuid.uuid4().hex[:8]}"
    await make(client, changes, name, "customer.balance.>")
    try:
        told = ""
        try:
            await check_stream(client.jetstream(), name, ("customer.balance.*",), size=EVENT_BYTES)
        except ServiceError as error:
            told = error.problem
        assert reason in told, told
        assert bool(told) == bool(reason), told
        if "7" not in str(changes.get("subjects")):  # which takes this client's, and no other's
            assert await stores(client, name, 1 if reason else 10) == (not reason)
    finally:
        await api(client, f"STREAM.DELETE.{name}")


def test_each_field_of_a_stream_is_in_the_table() -> None:
    assert {field.name for field in dataclasses.fields(StreamConfig)} == OURS.union(*(row for row, _ in STREAMS))


async def test_a_stream_that_takes_requests_answers_them(client: Client) -> None:
    await api(client, "STREAM.CREATE.all", name="all", subjects=["customer.>"])
    try:
        asked = await client.request("customer.balance", b'{"client_id":"7"}', timeout=5)
        assert b'"stream":"all"' in asked.data, "the server's acknowledgement is what a requester gets"
        with pytest.raises(ServiceError, match=r"takes requests too \(customer\.balance, customer\.get\)"):
            await check_stream(
                client.jetstream(), "all", ("customer.balance.*",), requests=("customer.balance", "customer.get")
            )
    finally:
        await api(client, "STREAM.DELETE.all")


BUCKETS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"max_msgs_per_subject": 5}, ""),
    ({"max_msgs_per_subject": -1}, "is a plain stream, not a bucket"),
    ({"subjects": ["$KV.config.other"]}, "does not take $KV.config.seed"),
    ({"no_ack": True}, "acknowledges nothing"),
    ({"sealed": True}, "is sealed"),
    ({"mirror": {"name": "origin"}, "subjects": []}, "is a mirror"),
    ({"max_msg_size": 10}, "max_msg_size 10"),
    ({"discard_new_per_subject": True, "discard": "new"}, "discard_new_per_subject"),
]


@pytest.mark.parametrize(("changes", "reason"), BUCKETS, ids=[str(changes) for changes, _ in BUCKETS])
async def test_a_bucket_is_refused_when_its_key_cannot_be_written_again(
    client: Client, changes: dict[str, Any], reason: str
) -> None:
    form = {"max_msgs_per_subject": 1, "deny_delete": True, "allow_rollup_hdrs": True, "allow_direct": True}
    await make(client, {**form, **changes}, "KV_config", "$KV.config.>")
    try:
        if not reason:
            bucket = await open_bucket(client.jetstream(), "config", ("seed",))
            for _ in range(2):
                await bucket.put("seed", b"x" * 16)
            return
        with pytest.raises(ServiceError) as caught:
            await open_bucket(client.jetstream(), "config", ("seed",))
        assert reason in caught.value.problem
    finally:
        await api(client, "STREAM.DELETE.KV_config")


CONSUMERS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"description": "d", "metadata": {"a": "b"}, "num_replicas": 1, "mem_storage": True, "sample_freq": "10%"}, ""),
    ({"deliver_policy": "by_start_sequence", "opt_start_seq": 1}, ""),
    ({"deliver_policy": "by_start_time", "opt_start_time": "2024-01-01T00:00:00Z"}, ""),
    ({"ack_policy": "none"}, "is not a pull consumer"),
    ({"ack_policy": "all"}, "is not a pull consumer"),
    ({"ack_wait": 5 * S, "max_waiting": 3, "max_ack_pending": 2, "replay_policy": "instant"}, ""),
    ({"max_deliver": 3}, "max_deliver"),
    ({"backoff": [5 * S, 5 * S]}, ""),
    ({"backoff": [5 * S, S]}, "backoff"),
    ({"filter_subject": "origin"}, "has the filter origin"),
    ({"filter_subjects": ["origin", "other"]}, "has the filter origin, other"),
    ({"headers_only": True}, "headers only"),
    ({"deliver_subject": "d", "deliver_group": "g", "rate_limit_bps": 1000}, "is not a pull consumer"),
    ({"deliver_subject": "d", "flow_control": True, "idle_heartbeat": S}, "is not a pull consumer"),
    ({"inactive_threshold": 60 * S}, "inactive_threshold"),
    ({"pause_until": "2199-01-01T00:00:00Z"}, ""),
    ({"priority_groups": ["a"], "priority_policy": "overflow"}, "priority_groups"),
    ({"priority_groups": ["a"], "priority_policy": "pinned_client", "priority_timeout": 60 * S}, "priority_groups"),
    ({"max_batch": 5, "max_expires": S, "max_bytes": 5_000}, ""),
]


@pytest.mark.parametrize(("changes", "reason"), CONSUMERS, ids=[str(changes) for changes, _ in CONSUMERS])
async def test_a_consumer_is_refused_when_it_can_be_no_queue(
    client: Client, changes: dict[str, Any], reason: str
) -> None:
    name = f"c-{uuid.uuid4().hex[:8]}"
    wanted = {"name": name, "durable_name": name, "ack_policy": "explicit", "deliver_policy": "all", **changes}
    info = await api(client, f"CONSUMER.CREATE.origin.{name}", stream_name="origin", config=wanted)
    await api(client, f"CONSUMER.DELETE.origin.{name}")
    told = consumer_unfit(info["config"], whole=True)
    assert reason in told
    assert bool(told) == bool(reason), told


def test_each_field_of_a_consumer_is_in_the_table() -> None:
    named = {"name", "durable_name"}.union(*(row for row, _ in CONSUMERS))
    assert {field.name for field in dataclasses.fields(ConsumerConfig)} <= named


@pytest.mark.parametrize(
    ("pattern", "subject", "covered", "overlaps"),
    [
        ("a.b", "a.b", True, True), ("a.*", "a.b", True, True), ("a.>", "a.b.c", True, True),
        ("a.>", "a.>", True, True), ("a.>", "a.*", True, True), ("a.*", "a.>", False, True),
        ("a.b", "a.*", False, True), ("a.>", "a", False, False), ("*.b", "a.*", False, True),
        ("a.*", "a.b.c", False, False), (">", "a.b", True, True), ("a.b", "a.c", False, False),
    ],
)  # fmt: skip
def test_subjects_by_the_wildcards_of_nats(pattern: str, subject: str, covered: bool, overlaps: bool) -> None:
    assert (covers(pattern, subject), overlap(pattern, subject)) == (covered, overlaps)


def test_no_configuration_says_nothing_false() -> None:
    assert stream_unfit({}, ("a",), 1) == "does not take a"
