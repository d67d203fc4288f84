"""Check whether the configuration of a stream, bucket or consumer suits our use of it.

Each function takes the configuration as the server sends it and returns why it is unsuitable, or ''. Fields that are
not checked are harmless: the tables in tests/service/nats/test_fit.py name every field.

https://github.com/nats-io/nats-server/blob/main/server/stream.go (`StreamConfig`), `consumer.go` (`ConsumerConfig`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from service.nats.subjects import covers, overlap

NS: Final = 1_000_000_000
Config = Mapping[str, Any]


def stream_unfit(config: Config, subjects: Sequence[str], size: int, requests: Sequence[str] = ()) -> str:
    """Return why the stream would not store and acknowledge messages of up to `size` bytes on `subjects`.

    It must not take `requests` either: a stream that stores a request also answers it.
    """
    if config.get("mirror"):
        return "is a mirror, which takes no messages of its own"
    taken = config.get("subjects") or ()
    if missing := [subject for subject in subjects if not any(covers(pattern, subject) for pattern in taken)]:
        return f"does not take {', '.join(missing)}"
    if asked := [subject for subject in requests if any(overlap(pattern, subject) for pattern in taken)]:
        return f"takes requests too ({', '.join(asked)}), and would answer them with its own acknowledgements"
    transform = config.get("subject_transform") or {}
    if transform and any(overlap(transform.get("src") or ">", subject) for subject in subjects):
        return "stores messages under other subjects (subject_transform)"
    return _stores_nothing(config, size)


def bucket_unfit(config: Config, keys: Sequence[str], size: int) -> str:
    """Return why values of up to `size` bytes cannot be overwritten without limit at `keys`, given as subjects."""
    if int(config.get("max_msgs_per_subject") or 0) < 1:
        return "is a plain stream, not a bucket"
    return stream_unfit(config, keys, size)


def consumer_unfit(config: Config, *, whole: bool) -> str:
    """Return why the consumer might not deliver each message until it is deleted; `whole`: it must have no filter."""
    filters = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
    if whole and filters != [">"]:
        return f"has the filter {', '.join(filters)}, and every message is wanted"
    if config.get("headers_only"):
        return "delivers headers only, and a deletion would lose the bodies"
    if config.get("priority_groups"):
        return "delivers to priority groups only (priority_groups), and this role uses none"
    return _loses(config)


def _loses(config: Config) -> str:
    backoff, ack_wait = config.get("backoff") or (), config.get("ack_wait") or 0
    if config.get("deliver_subject") or config.get("ack_policy") != "explicit":
        return "is not a pull consumer with explicit acknowledgements"
    if (times := config.get("max_deliver") or -1) > 0:
        return f"drops a message after {times} deliveries (max_deliver)"
    if any(wait < ack_wait for wait in backoff):
        return "delivers again before its ack_wait is over (backoff)"
    if idle := config.get("inactive_threshold"):
        return f"is deleted, with its position, after {idle / NS:g} seconds without a reader (inactive_threshold)"
    return ""


def _stores_nothing(config: Config, size: int) -> str:
    if config.get("sealed"):
        return "is sealed"
    if config.get("no_ack"):
        return "acknowledges nothing (no_ack)"
    if config.get("allow_msg_counter"):
        return "is a counter, which takes only numbers (allow_msg_counter)"
    for name in ("max_msg_size", "max_bytes"):
        if 0 < int(config.get(name) or 0) < size:
            return f"takes no message of {size} bytes ({name} {config[name]})"
    if config.get("discard_new_per_subject"):
        return "refuses what comes to a subject that has its messages (discard_new_per_subject)"
    return ""
