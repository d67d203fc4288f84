"""What an account may have, in the project's own words: limits, users, streams, buckets, consumers, optional parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Final

MIB: Final = 1024 * 1024
DAY_S: Final = 24 * 60 * 60


@dataclass(frozen=True)
class Limits:
    """What an account may use; -1 means no limit."""

    connections: int = 100
    subscriptions: int = 10_000
    disk_bytes: int = 64 * MIB
    memory_bytes: int = 0
    streams: int = 10
    consumers: int = 100

    def plus(self, more: Limits) -> Limits:
        return Limits(**{each.name: getattr(self, each.name) + getattr(more, each.name) for each in fields(Limits)})


NO_MORE: Final = Limits(connections=0, subscriptions=0, disk_bytes=0, memory_bytes=0, streams=0, consumers=0)


@dataclass(frozen=True)
class User:
    """The only subjects that a user may publish and subscribe to. `subject queue` allows only that queue group."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responses: bool = False
    """May reply once to each request it receives, to any inbox."""
    deny_publish: tuple[str, ...] = ()
    """Exceptions from `publish`."""
    gateway: bool = field(default=False, compare=False)
    """Has a token for the HTTP gateway too, in a file named after the user."""
    devices: bool = False
    """Stands for all devices: each connects over MQTT only, with a JWT of its own. It has no file."""


@dataclass(frozen=True)
class Stream:
    name: str
    subjects: tuple[str, ...]
    max_age_s: int
    max_bytes: int
    duplicate_window_s: int = 120
    allow_batched: bool = False
    """Takes fast-ingest batches (ADR-50): one acknowledgement for many messages. nats-server 2.14 and later."""
    discard_new: bool = False
    """A full stream refuses new messages, instead of discarding old ones."""
    interest: bool = False
    """A message is removed once every consumer has acknowledged it, and is not stored without a consumer."""
    per_subject: int = -1
    of_server: bool = False
    """A stream that nats-server creates with the first MQTT connection: only its bounds are ours to set."""
    replicas: int = 3


@dataclass(frozen=True)
class Bucket:
    name: str
    max_bytes: int
    markers_s: int = 0
    """Each key may have its own TTL; its delete marker stays for this time. 0: keys do not expire."""
    replicas: int = 3


@dataclass(frozen=True)
class Consumer:
    """A durable pull consumer of a stream, with explicit acks, starting at the stream's first message."""

    stream: str
    name: str
    ack_wait_s: int
    max_ack_pending: int
    max_deliver: int = -1
    filters: tuple[str, ...] = ()
    """Subjects; none: all subjects of the stream."""


@dataclass(frozen=True)
class Part:
    """What an optional role needs in addition to `ACCOUNT`. Its name is its user's."""

    user: User
    streams: tuple[Stream, ...] = ()
    """Streams that it adds, and streams of the account that it needs with other settings."""
    consumers: tuple[Consumer, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    others: tuple[User, ...] = ()
    """Users in addition to its own."""
    limits: Limits = NO_MORE
    """What it needs in addition to the account's limits; disk is counted over all replicas."""

    @property
    def name(self) -> str:
        return self.user.name


@dataclass(frozen=True)
class Account:
    limits: Limits
    users: tuple[User, ...]
    streams: tuple[Stream, ...]
    buckets: tuple[Bucket, ...]
    consumers: tuple[Consumer, ...] = ()

    def plus(self, parts: Iterable[Part]) -> Account:
        """Return the account with these parts added."""
        account = self
        for part in parts:
            names = {stream.name for stream in part.streams}
            others = (stream for stream in account.streams if stream.name not in names)
            account = replace(
                account,
                limits=account.limits.plus(part.limits),
                users=(*account.users, part.user, *part.others),
                streams=(*others, *part.streams),
                buckets=(*account.buckets, *part.buckets),
                consumers=(*account.consumers, *part.consumers),
            )
        return account

    def sized(self, stream: str, max_bytes: int) -> Account:
        """Return the account with that size for a stream, and with the disk space for it."""
        (before,) = (each for each in self.streams if each.name == stream)
        more = (max_bytes - before.max_bytes) * before.replicas
        return replace(
            self,
            limits=replace(self.limits, disk_bytes=self.limits.disk_bytes + more),
            streams=tuple(replace(each, max_bytes=max_bytes) if each == before else each for each in self.streams),
        )

    def user(self, name: str) -> User:
        return next(user for user in self.users if user.name == name)
