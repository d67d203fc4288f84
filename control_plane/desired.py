"""The desired state of NATS, declared once for Synadia Cloud, the local system and the tests.

`ACCOUNT` is what the role `customer` and its clients need. An optional role is a `Part` in `PARTS`: `create --with
NAME` creates its user, streams and consumers, and later runs keep them as declared (while its user exists). Parts are
not in `ACCOUNT` because streams and consumers count against the limits of a Synadia Cloud plan. The local system and
the tests use `EVERYTHING`. The streams' bytes, times their replicas, must fit into `Limits.disk_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from control_plane.parts import BALANCES, PARTS
from control_plane.resources import MIB, Account, Bucket, Limits, Part, User
from service.contracts import customer as contract
from service.contracts import devices
from service.contracts.stream import STREAM_SUBJECTS

TAG: Final = "customer-balance"
"""Tag of the accounts that this program created, and may therefore change and delete."""

SERVICE: Final = User(name=contract.USER, publish=contract.PUBLISH, subscribe=contract.SUBSCRIBE, responses=True)

READING: Final = (contract.SUBJECT, contract.GET_SUBJECT)
"""Subjects of requests that change nothing."""

CLIENT: Final = User(
    name="client",
    publish=(*READING, contract.STATEMENT_SUBJECT, devices.GET_SUBJECT, devices.LIST_SUBJECT, "$SRV.>"),
    subscribe=("_INBOX.>",),
)

ADMINISTRATOR: Final = User(name="administrator", publish=(">",), subscribe=(">",))
"""Has every permission in one account. It is used only while the account is provisioned."""

GATEWAY: Final = User(
    name="gateway",
    publish=(*READING, "$SRV.>"),
    # Synadia Cloud's gateway creates its own inboxes, under the default prefix.
    subscribe=("_INBOX.>",),
    gateway=True,
)

REGISTRAR: Final = User(
    name="registrar",
    publish=(*READING, contract.CREATE_SUBJECT, "$SRV.>"),
    subscribe=("_INBOX.>",),
    gateway=True,
)
"""A separate user, so that creating clients is a separate permission."""

TELLER: Final = User(
    name="teller",
    publish=(*READING, contract.ADJUST_SUBJECT, contract.STATEMENT_SUBJECT, "$SRV.>"),
    subscribe=("_INBOX.>",),
    gateway=True,
)
"""A separate user, so that adjusting balances is a separate permission."""


_API: Final = "$JS.API"
_CONSUMER_VERBS: Final = ("CREATE", "DELETE", "MSG.NEXT")


def _touching(part: Part) -> Iterator[str]:
    """Yield the subjects that would change a role's consumers, take their messages or acknowledge them.

    On an interest stream, that covers every consumer: one that nobody reads keeps messages until the stream is full.
    """
    shared = [stream.name for stream in part.streams if stream.interest]
    own = [f"{each.stream}.{each.name}" for each in part.consumers if each.stream not in shared]
    for consumer in (*(f"{stream}.*" for stream in shared), *own):
        yield from (f"{_API}.CONSUMER.{verb}.{consumer}" for verb in _CONSUMER_VERBS)
        yield f"{_API}.CONSUMER.CREATE.{consumer}.>"
        yield f"$JS.ACK.{consumer}.>"
        yield f"$JS.ACK.*.*.{consumer}.>"  # with domain and account, as in ADR-15
    yield from (f"{_API}.CONSUMER.CREATE.{stream}" for stream in shared)  # the server names it


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
    deny_publish=tuple(subject for part in PARTS for subject in _touching(part)),
)
"""For a person who inspects: streams and the bucket, `$SRV`, and events as they arrive. It changes nothing.

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
