"""Express desired and actual state in NATS's terms, and compare them setting by setting.

Synadia's API and nats-server both describe users, streams and consumers in NATS's JSON. An actual setting that is not
declared is drift too, unless it is listed in `NOT_COMPARED`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from control_plane.errors import ProvisioningError
from control_plane.resources import Bucket, Consumer, Limits, Stream, User

ObjectSettings = Mapping[str, Any]

RESPONSE_TTL_S: Final = 60
NANOSECONDS: Final = 1_000_000_000
KV_PREFIX: Final = "KV_"

NOT_COMPARED: Final[Mapping[str, frozenset[str]]] = {
    "user": frozenset({"tags"}),
    "stream": frozenset({"name", "description", "metadata", "placement", "template_owner", "first_seq"}),
    "bucket": frozenset({"name", "bucket", "description", "metadata", "placement", "template_owner", "first_seq"}),
    # The server fills in `max_waiting`.
    "consumer": frozenset({"name", "durable_name", "description", "metadata", "max_waiting"}),
}
"""Labels, and settings that a server or a plan decides."""

FIXED: Final[Mapping[str, frozenset[str]]] = {
    "user": frozenset(),
    "stream": frozenset({"storage", "max_consumers", "sealed", "deny_delete", "deny_purge"}),
    "bucket": frozenset({"storage", "sealed", "deny_purge"}),
    "consumer": frozenset({"ack_policy", "deliver_policy", "replay_policy", "deliver_subject"}),
}
"""Settings that a server cannot change after creation."""

_NOTHING: Final[tuple[Any, ...]] = (None, False, 0, -1, "", [], {})
_NO_LIMIT: Final = frozenset({"subs", "data", "payload"})
"""Limits of a user: 0 allows nothing, -1 is unlimited, which is also the default."""
_NONE_AT_ALL: Final = frozenset({"imports", "exports", "leaf", "payload", "data"})
"""Limits of an account for which 0 allows nothing; for its other limits, 0 means not set."""
_MEANT: Final = {"compression": ("none",), "persist_mode": ("default",), "history": (1,)}
"""Setting -> values that equal its default."""
_UNORDERED: Final = frozenset({"pub.allow", "pub.deny", "sub.allow", "sub.deny", "subjects", "filter_subjects", "src"})


@dataclass(frozen=True)
class Difference:
    """A setting that has drifted."""

    field: str
    wanted: Any
    actual: Any


def differences(kind: str, wanted: ObjectSettings, actual: ObjectSettings) -> tuple[Difference, ...]:
    """Return every setting whose actual value differs from the wanted one."""
    ours, theirs = dict(_flat(wanted)), dict(_flat(actual))
    names = [*ours, *(name for name in theirs if name not in ours)]
    return tuple(
        Difference(name, ours.get(name), theirs.get(name))
        for name in names
        if name.partition(".")[0] not in NOT_COMPARED[kind]
        and _meaning(kind, name, ours.get(name)) != _meaning(kind, name, theirs.get(name))
    )


def check_changeable(kind: str, name: str, wanted: ObjectSettings, actual: ObjectSettings) -> None:
    """Raise `ProvisioningError` if a setting that cannot be changed has drifted."""
    for difference in differences(kind, wanted, actual):
        if difference.field in FIXED[kind]:
            problem = (
                f"{difference.field} of {kind} {name} is {difference.actual} and cannot become {difference.wanted}"
            )
            raise ProvisioningError(f"{problem}; delete the {kind} by hand, with what is in it, and run create again")


def cleared(kind: str, wanted: ObjectSettings, actual: ObjectSettings) -> dict[str, Any]:
    """Return values that reset settings that are set but not declared."""
    strange = [name for name in (drift.field for drift in differences(kind, {}, actual)) if name not in wanted]
    empty = {name: type(actual[name])() for name in strange if isinstance(actual.get(name), bool | int | list | str)}
    return {**empty, **{name: _MEANT[name][0] for name in strange if name in _MEANT}}


def limits_differences(wanted: ObjectSettings, actual: ObjectSettings) -> tuple[Difference, ...]:
    """Return drift of the declared limits. An absent limit means: connections unlimited, JetStream off."""
    absent = {"conn": -1, "subs": -1}
    there = {name: actual.get(name, absent.get(name, 0)) for name in wanted}
    return tuple(Difference(name, value, there[name]) for name, value in wanted.items() if value != there[name])


def other_limits(wanted: ObjectSettings, actual: ObjectSettings) -> dict[str, Any]:
    """Return limits that are set but not declared. A plan sets some, so they are reported, not corrected."""
    told = {name: value for name, value in actual.items() if name not in {*wanted, "tiered_limits"}}
    return {name: value for name, value in told.items() if _limits(name, value)}


def _limits(name: str, value: Any) -> bool:
    if name == "wildcards":
        return value is False
    return value not in _NOTHING or (name in _NONE_AT_ALL and value == 0 and value is not None)


def user_settings(user: User) -> dict[str, Any]:
    """Return a user's permissions as in JWTs and Synadia's API."""
    body: dict[str, Any] = {"pub": {"allow": list(user.publish)}, "sub": {"allow": list(user.subscribe)}}
    if user.deny_publish:
        body["pub"]["deny"] = list(user.deny_publish)
    if user.responses:
        body["resp"] = {"max": 1, "ttl": RESPONSE_TTL_S * NANOSECONDS}
    if user.devices:
        body |= {"bearer_token": True, "allowed_connection_types": ["MQTT"]}
    return {**body, "subs": -1, "data": -1, "payload": -1}


def limits_settings(limits: Limits) -> dict[str, int]:
    """Return an account's limits. Others are left to the plan; `status` lists those that are set."""
    return {
        "conn": limits.connections,
        "subs": limits.subscriptions,
        "disk_storage": limits.disk_bytes,
        "mem_storage": limits.memory_bytes,
        "streams": limits.streams,
        "consumer": limits.consumers,
    }


def stream_settings(stream: Stream) -> dict[str, Any]:
    return {
        "name": stream.name,
        "subjects": list(stream.subjects),
        "retention": "interest" if stream.interest else "limits",
        "storage": "file",
        "discard": "new" if stream.discard_new else "old",
        "max_age": stream.max_age_s * NANOSECONDS,
        "max_bytes": stream.max_bytes,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": stream.per_subject,
        "max_msg_size": -1,
        "num_replicas": stream.replicas,
        "duplicate_window": stream.duplicate_window_s * NANOSECONDS,
        "no_ack": False,
        **({"allow_batched": True} if stream.allow_batched else {}),  # older servers do not know it
        "allow_direct": False,
        "allow_rollup_hdrs": False,
        "deny_delete": False,
        "deny_purge": False,
        "sealed": False,
    }


def ours(stream: Stream, there: ObjectSettings | None) -> tuple[ObjectSettings, ObjectSettings | None]:
    """Return a stream's wanted and actual settings, without those that are the server's."""
    wanted = stream_settings(stream)
    if not stream.of_server:
        return wanted, there
    return bounds(wanted), None if there is None else bounds(there)


def bounds(config: ObjectSettings) -> ObjectSettings:
    """Return a stream's maximum size, and what happens when it is full."""
    return {name: config.get(name) for name in ("max_bytes", "discard")}


def bucket_stream_settings(bucket: Bucket) -> dict[str, Any]:
    """Return the settings of the stream behind a bucket:
    https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-8.md
    """
    return {
        "name": KV_PREFIX + bucket.name,
        "subjects": [f"$KV.{bucket.name}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_age": 0,
        "max_bytes": bucket.max_bytes,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": 1,
        "max_msg_size": -1,
        "num_replicas": bucket.replicas,
        "duplicate_window": 120 * NANOSECONDS,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "deny_delete": True,
        **(_expiring(bucket) if bucket.markers_s else {}),
    }


def _expiring(bucket: Bucket) -> dict[str, Any]:
    """Return the settings for keys with a TTL, and for atomic batches that include such a key:
    https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-43.md
    """
    return {
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": bucket.markers_s * NANOSECONDS,
        "allow_atomic": True,
    }


def bucket_settings(bucket: Bucket) -> dict[str, Any]:
    """Return a bucket's settings as in Synadia's API."""
    return {
        "bucket": bucket.name,
        "storage": "file",
        "history": 1,
        "max_age": 0,
        "max_bytes": bucket.max_bytes,
        "max_value_size": -1,
        "num_replicas": bucket.replicas,
        "compression": False,
    }


def consumer_settings(consumer: Consumer) -> dict[str, Any]:
    """Return a consumer's settings. `num_replicas` 0: as many as its stream."""
    return {
        "name": consumer.name,
        "durable_name": consumer.name,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "ack_wait": consumer.ack_wait_s * NANOSECONDS,
        "max_ack_pending": consumer.max_ack_pending,
        "max_deliver": consumer.max_deliver,
        "filter_subjects": list(consumer.filters),
        "num_replicas": 0,
    }


def as_consumer_settings(config: ObjectSettings) -> dict[str, Any]:
    """Normalize a server's consumer settings: the server has a separate field for a single filter subject."""
    one = config.get("filter_subject")
    settings = {name: value for name, value in config.items() if name != "filter_subject"}
    return {**settings, "filter_subjects": [one]} if one else settings


def _flat(settings: ObjectSettings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _meaning(kind: str, name: str, value: Any) -> Any:
    """Return the same value for settings with the same meaning."""
    if kind == "user" and name in _NO_LIMIT:
        return -1 if value is None else value
    if value in _NOTHING or value in _MEANT.get(name, ()):
        return None
    return sorted(value) if name in _UNORDERED and isinstance(value, list) else value
