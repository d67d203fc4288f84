"""The desired state of NATS, declared once for Synadia Cloud, the local system and the tests.

`ACCOUNT` is what the role `customer` and its clients need. An optional role is a `Part` in `PARTS`: `create --with
NAME` makes its user, streams and consumers, and keeps them as declared from then on (while its user exists). They are
not in `ACCOUNT` because streams and consumers count against the limits of a Synadia Cloud plan. The local system and
the tests have `EVERYTHING`. The streams' bytes, times their replicas, must fit into `Limits.disk_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from service.contracts import archive, queue
from service.contracts import customer as contract
from service.contracts.stream import STREAM, STREAM_SUBJECTS

TAG: Final = "customer-balance"
"""Tag of the accounts that this program made, and may therefore change and delete."""

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


@dataclass(frozen=True)
class User:
    """Subjects a user may publish and subscribe to, and no others. `subject queue` allows only that queue group."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responses: bool = False
    """May answer each request it receives once, wherever the requester's inbox is."""
    deny_publish: tuple[str, ...] = ()
    """Exceptions from `publish`."""
    gateway: bool = field(default=False, compare=False)
    """Has a token for the HTTP gateway too, in a file named after the user."""


@dataclass(frozen=True)
class Stream:
    name: str
    subjects: tuple[str, ...]
    max_age_s: int
    max_bytes: int
    duplicate_window_s: int
    allow_batched: bool = False
    """Takes fast-ingest batches (ADR-50): one acknowledgement for many messages. nats-server 2.14 and later."""
    discard_new: bool = False
    """A full stream refuses new messages, instead of discarding old ones."""
    replicas: int = 3


@dataclass(frozen=True)
class Bucket:
    name: str
    max_bytes: int
    replicas: int = 3


@dataclass(frozen=True)
class Consumer:
    """A durable pull consumer of a stream, with explicit acknowledgements, from the stream's first message on."""

    stream: str
    name: str
    ack_wait_s: int
    max_ack_pending: int
    max_deliver: int = -1
    filter: str = ""
    """A subject; empty: all subjects of the stream."""


@dataclass(frozen=True)
class Part:
    """What an optional role needs in addition to `ACCOUNT`. Its name is its user's."""

    user: User
    streams: tuple[Stream, ...] = ()
    """Streams that it adds, and streams of the account that it needs with other settings."""
    consumers: tuple[Consumer, ...] = ()
    disk_bytes: int = 0
    """Bytes that its streams take in addition to the account's, on all replicas."""

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
                limits=replace(account.limits, disk_bytes=account.limits.disk_bytes + part.disk_bytes),
                users=(*account.users, part.user),
                streams=(*others, *part.streams),
                consumers=(*account.consumers, *part.consumers),
            )
        return account

    def sized(self, stream: str, max_bytes: int) -> Account:
        """Return the account with that size for a stream, and the disk space for it."""
        (before,) = (each for each in self.streams if each.name == stream)
        more = (max_bytes - before.max_bytes) * before.replicas
        return replace(
            self,
            limits=replace(self.limits, disk_bytes=self.limits.disk_bytes + more),
            streams=tuple(replace(each, max_bytes=max_bytes) if each == before else each for each in self.streams),
        )

    def user(self, name: str) -> User:
        return next(user for user in self.users if user.name == name)


SERVICE: Final = User(name=contract.USER, publish=contract.PUBLISH, subscribe=contract.SUBSCRIBE, responses=True)

READING: Final = (contract.SUBJECT, contract.GET_SUBJECT)
"""Subjects of requests that change nothing."""

CLIENT: Final = User(
    name="client",
    publish=(*READING, contract.STATEMENT_SUBJECT, "$SRV.>"),
    subscribe=("_INBOX.>",),
)

ADMINISTRATOR: Final = User(name="administrator", publish=(">",), subscribe=(">",))
"""Has every permission in one account: the user that provisions it, while that takes place."""

GATEWAY: Final = User(
    name="gateway",
    publish=(*READING, "$SRV.>"),
    # The gateway of Synadia Cloud makes its inboxes itself, under the default prefix.
    subscribe=("_INBOX.>",),
    gateway=True,
)

REGISTRAR: Final = User(
    name="registrar",
    publish=(*READING, contract.CREATE_SUBJECT, "$SRV.>"),
    subscribe=("_INBOX.>",),
    gateway=True,
)
"""A separate user: creating clients is a right of its own."""

TELLER: Final = User(
    name="teller",
    publish=(*READING, contract.ADJUST_SUBJECT, contract.STATEMENT_SUBJECT, "$SRV.>"),
    subscribe=("_INBOX.>",),
    gateway=True,
)
"""A separate user: adjusting balances is a right of its own."""

BALANCES: Final = Stream(
    name=STREAM,
    subjects=STREAM_SUBJECTS,
    max_age_s=7 * DAY_S,
    max_bytes=10 * MIB,
    duplicate_window_s=120,
    allow_batched=True,
)

ARCHIVE: Final = Part(
    user=User(name=archive.USER, publish=archive.PUBLISH, subscribe=archive.SUBSCRIBE, responses=True),
    streams=(
        # It holds events that are not archived yet; `create --stream-size` sets another size.
        replace(BALANCES, max_bytes=archive.STREAM_BYTES),
        Stream(
            name=archive.DEAD_STREAM,
            subjects=(f"{archive.DEAD_SUBJECT}.*",),
            max_age_s=30 * DAY_S,
            max_bytes=archive.DEAD_BYTES,
            duplicate_window_s=120,
            discard_new=True,
        ),
    ),
    consumers=(
        Consumer(
            stream=STREAM,
            name=archive.CONSUMER,
            ack_wait_s=archive.ACK_WAIT_S,
            max_ack_pending=archive.MAX_ACK_PENDING,
        ),
    ),
    disk_bytes=3 * (archive.STREAM_BYTES + archive.DEAD_BYTES),
)

QUEUE: Final = Part(
    user=User(name=queue.USER, publish=queue.PUBLISH, subscribe=queue.SUBSCRIBE),
    streams=(
        Stream(
            name=queue.DEAD_STREAM,
            subjects=(f"{queue.DEAD_SUBJECT}.*",),
            max_age_s=30 * DAY_S,
            max_bytes=queue.DEAD_BYTES,
            duplicate_window_s=120,
            discard_new=True,
        ),
    ),
    consumers=(
        Consumer(
            stream=queue.STREAM,
            name=queue.CONSUMER,
            ack_wait_s=queue.ACK_WAIT_S,
            max_ack_pending=queue.MAX_ACK_PENDING,
        ),
    ),
    disk_bytes=3 * queue.DEAD_BYTES,
)

PARTS: Final[tuple[Part, ...]] = (ARCHIVE, QUEUE)
"""Parts that `create --with NAME` can make; NAME is the name of the part's user."""


_API: Final = "$JS.API"
_CONSUMER_VERBS: Final = ("CREATE", "DELETE", "MSG.NEXT")


def _touching(consumer: Consumer) -> tuple[str, ...]:
    """Return the subjects that would change a role's consumer, take its messages or acknowledge them."""
    stream, name = consumer.stream, consumer.name
    return (
        *(f"{_API}.CONSUMER.{verb}.{stream}.{name}" for verb in _CONSUMER_VERBS),
        f"{_API}.CONSUMER.CREATE.{stream}.{name}.>",
        f"$JS.ACK.{stream}.{name}.>",
        f"$JS.ACK.*.*.{stream}.{name}.>",  # with domain and account, as in ADR-15
    )


VIEWER: Final = User(
    name="viewer",
    publish=(
        "$SRV.>",
        f"{_API}.INFO",
        *(f"{_API}.STREAM.{verb}" for verb in ("NAMES", "LIST", "INFO.*", "MSG.GET.*")),
        f"{_API}.DIRECT.GET.>",
        *(f"{_API}.CONSUMER.{verb}.>" for verb in (*_CONSUMER_VERBS, "INFO", "LIST", "NAMES")),
        "$JS.ACK.>",
    ),
    subscribe=("_INBOX.>", *STREAM_SUBJECTS),
    deny_publish=tuple(subject for part in PARTS for consumer in part.consumers for subject in _touching(consumer)),
)
"""For a person who inspects: streams and the bucket, `$SRV`, and events as they arrive. Changes nothing.

Wildcards, because a user's JWT is sent in one line of at most 4,096 bytes: a user with a longer one cannot connect.
"""

ACCOUNT: Final = Account(
    limits=Limits(),
    users=(SERVICE, CLIENT, REGISTRAR, TELLER, GATEWAY, VIEWER),
    streams=(BALANCES,),
    buckets=(Bucket(name=contract.BUCKET, max_bytes=MIB),),
)

EVERYTHING: Final = ACCOUNT.plus(PARTS)
"""The account with every part: what the local system and the tests run."""
