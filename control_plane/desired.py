"""The desired state of NATS, declared once for Synadia Cloud, the local system and the tests.

A new role adds its user, and its streams and buckets, to `ACCOUNT`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from service.customer import contract

TAG: Final = "customer-balance"
"""Marks the accounts that this program made, and may therefore change and delete."""

MIB: Final = 1024 * 1024
DAY_S: Final = 24 * 60 * 60


@dataclass(frozen=True)
class Limits:
    """What an account may use; -1 is without limit."""

    connections: int = 100
    subscriptions: int = 10_000
    disk_bytes: int = 64 * MIB
    memory_bytes: int = 0
    streams: int = 10
    consumers: int = 100


@dataclass(frozen=True)
class User:
    """Subjects a user may publish and subscribe to; nothing else. `subject queue` allows that queue group alone."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responses: bool = False
    """May answer each request it receives once, wherever the requester's inbox is."""


@dataclass(frozen=True)
class Stream:
    name: str
    subjects: tuple[str, ...]
    max_age_s: int
    max_bytes: int
    duplicate_window_s: int
    replicas: int = 3


@dataclass(frozen=True)
class Bucket:
    name: str
    max_bytes: int
    replicas: int = 3


@dataclass(frozen=True)
class Account:
    limits: Limits
    users: tuple[User, ...]
    streams: tuple[Stream, ...]
    buckets: tuple[Bucket, ...]

    def user(self, name: str) -> User:
        return next(user for user in self.users if user.name == name)


SERVICE: Final = User(name=contract.USER, publish=contract.PUBLISH, subscribe=contract.SUBSCRIBE, responses=True)

CLIENT: Final = User(
    name="client",
    publish=(contract.SUBJECT, "$SRV.>"),
    subscribe=("_INBOX.>",),
)

ADMINISTRATOR: Final = User(name="administrator", publish=(">",), subscribe=(">",))
"""Every permission in one account: who provisions it, for as long as that takes."""

GATEWAY: Final = User(
    name="gateway",
    publish=(contract.SUBJECT, "$SRV.>"),
    # The gateway of Synadia Cloud makes its inboxes itself, under the default prefix.
    subscribe=("_INBOX.>",),
)

ACCOUNT: Final = Account(
    limits=Limits(),
    users=(SERVICE, CLIENT, GATEWAY),
    streams=(
        Stream(
            name=contract.STREAM,
            subjects=contract.STREAM_SUBJECTS,
            max_age_s=7 * DAY_S,
            max_bytes=10 * MIB,
            duplicate_window_s=120,
        ),
    ),
    buckets=(Bucket(name=contract.BUCKET, max_bytes=MIB),),
)
