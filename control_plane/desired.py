"""The desired state of NATS, declared once for Synadia Cloud, the local system and the tests.

`ACCOUNT` is what the role `customer` and its clients need. A role that not everybody runs is a `Part` in `PARTS`: its
user, streams and consumers are made by `create --with NAME`, and looked after from then on (its user is there). They
are no part of `ACCOUNT` because streams and consumers count against what a plan of Synadia Cloud allows. The local
system and the tests have `EVERYTHING`. The streams' bytes, times their replicas, must fit into `Limits.disk_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from service.archive import contract as archive
from service.customer import contract
from service.queue import contract as queue

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
    """When it is full it refuses what comes, in place of discarding what is there."""
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
    """A subject; all of the stream's when empty."""


@dataclass(frozen=True)
class Part:
    """What a role that not everybody runs needs beside `ACCOUNT`. Its name is its user's."""

    user: User
    streams: tuple[Stream, ...] = ()
    """Those that it adds, and those of the account that it wants otherwise."""
    consumers: tuple[Consumer, ...] = ()
    disk_bytes: int = 0
    """What its streams take beside the account's, on all replicas."""

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
        """The account, with parts."""
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

    def user(self, name: str) -> User:
        return next(user for user in self.users if user.name == name)


SERVICE: Final = User(name=contract.USER, publish=contract.PUBLISH, subscribe=contract.SUBSCRIBE, responses=True)

READING: Final = (contract.SUBJECT, contract.GET_SUBJECT)
"""Subjects of the requests that change nothing."""

CLIENT: Final = User(
    name="client",
    publish=(*READING, "$SRV.>"),
    subscribe=("_INBOX.>",),
)

ADMINISTRATOR: Final = User(name="administrator", publish=(">",), subscribe=(">",))
"""Every permission in one account: who provisions it, for as long as that takes."""

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
"""Creating clients is a right of its own."""

BALANCES: Final = Stream(
    name=contract.STREAM,
    subjects=contract.STREAM_SUBJECTS,
    max_age_s=7 * DAY_S,
    max_bytes=10 * MIB,
    duplicate_window_s=120,
    allow_batched=True,
)

ARCHIVE: Final = Part(
    user=User(name=archive.USER, publish=archive.PUBLISH, subscribe=archive.SUBSCRIBE, responses=True),
    streams=(
        # It holds what no task has archived yet.
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
            stream=contract.STREAM,
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
"""The parts of which `create --with NAME` makes some. A name is that of the part's user."""


def _reading(stream: str, consumers: Iterable[Consumer]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What reading a stream publishes, with consumers of one's own; and what would touch those that are declared."""
    api = "$JS.API"
    verbs = ("CREATE", "INFO", "DELETE", "MSG.NEXT")
    names = [consumer.name for consumer in consumers if consumer.stream == stream]
    allowed = (
        f"{api}.STREAM.INFO.{stream}",
        f"{api}.STREAM.MSG.GET.{stream}",
        f"{api}.DIRECT.GET.{stream}",
        f"{api}.DIRECT.GET.{stream}.>",
        f"{api}.CONSUMER.CREATE.{stream}",
        f"{api}.CONSUMER.LIST.{stream}",
        f"{api}.CONSUMER.NAMES.{stream}",
        *(f"{api}.CONSUMER.{verb}.{stream}.>" for verb in verbs),
        f"$JS.ACK.{stream}.>",
        f"$JS.ACK.*.*.{stream}.>",  # with domain and account, as ADR-15 has it
    )
    denied = (
        *(f"{api}.CONSUMER.{verb}.{stream}.{name}" for name in names for verb in verbs if verb != "INFO"),
        *(f"{api}.CONSUMER.CREATE.{stream}.{name}.>" for name in names),
        *(f"$JS.ACK.{stream}.{name}.>" for name in names),
        *(f"$JS.ACK.*.*.{stream}.{name}.>" for name in names),
    )
    return allowed, denied


_DECLARED: Final = [consumer for part in PARTS for consumer in part.consumers]
_STREAM_READ: Final = _reading(contract.STREAM, _DECLARED)
_BUCKET_READ: Final = _reading(f"KV_{contract.BUCKET}", _DECLARED)
_DEAD_READ: Final = _reading(archive.DEAD_STREAM, _DECLARED)
_QUEUE_DEAD_READ: Final = _reading(queue.DEAD_STREAM, _DECLARED)

VIEWER: Final = User(
    name="viewer",
    publish=(
        "$SRV.>",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        *_STREAM_READ[0],
        *_BUCKET_READ[0],
        *_DEAD_READ[0],
        *_QUEUE_DEAD_READ[0],
    ),
    subscribe=("_INBOX.>", *contract.STREAM_SUBJECTS),
    deny_publish=(*_STREAM_READ[1], *_BUCKET_READ[1], *_DEAD_READ[1], *_QUEUE_DEAD_READ[1]),
)
"""A person who looks: into the stream and the bucket, at `$SRV`, and at events as they come. Changes nothing."""

ACCOUNT: Final = Account(
    limits=Limits(),
    users=(SERVICE, CLIENT, REGISTRAR, GATEWAY, VIEWER),
    streams=(BALANCES,),
    buckets=(Bucket(name=contract.BUCKET, max_bytes=MIB),),
)

EVERYTHING: Final = ACCOUNT.plus(PARTS)
"""The account with every part: what the local system and the tests run."""
