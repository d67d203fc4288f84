"""The operations a NATS host must support; implemented for Synadia Cloud and for a self-hosted nats-server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from control_plane.auth.creds import Identity
from control_plane.resources import Account, Bucket, Consumer, Limits, Stream, User
from control_plane.settings import ObjectSettings


@dataclass(frozen=True)
class AccountSummary:
    id: str
    name: str
    is_system: bool
    is_ours: bool
    """True if this program created or adopted it: it carries `desired.TAG`."""


@dataclass(frozen=True)
class Actual:
    """What an account has, in NATS's terms."""

    key: str | None
    """The account's public key, if known."""
    limits: ObjectSettings
    users: Mapping[str, ObjectSettings]
    identities: Mapping[str, Identity]
    """User -> identity, for the same users."""
    streams: Mapping[str, ObjectSettings]
    buckets: Mapping[str, ObjectSettings]
    consumers: Mapping[tuple[str, str], ObjectSettings]
    """(stream, name) -> settings, for durable consumers."""
    rotating: frozenset[str] = frozenset()
    """Users whose former signing key is still valid."""


class Provider(Protocol):
    """Each call either succeeds completely, or raises `ProvisioningError` and can be repeated.

    `put_*` creates what is missing and changes what differs; `remove_*` succeeds if there is nothing to remove.
    """

    has_gateway: bool
    """True if it issues tokens for an HTTP gateway."""
    takes_devices: bool
    """True if its servers are known to speak MQTT."""

    async def accounts(self) -> Sequence[AccountSummary]: ...

    async def actual(self, account: str) -> Actual: ...

    async def max_replicas(self) -> int: ...

    async def takes_batches(self) -> bool:
        """Return whether a stream may have `allow_batched`."""
        ...

    async def create_account(self, name: str, wanted: Account) -> str:
        """Create an account with its limits, and with its users if one call can do both; return its id."""
        ...

    async def adopt(self, account: str) -> None:
        """Take over an account that this program did not create."""
        ...

    async def put_limits(self, account: str, limits: Limits) -> None: ...

    async def remove_account(self, account: str) -> None: ...

    async def put_user(self, account: str, user: User) -> None: ...

    async def remove_user(self, account: str, name: str) -> None: ...

    async def put_stream(self, account: str, stream: Stream) -> None: ...

    async def remove_stream(self, account: str, name: str) -> None: ...

    async def put_consumer(self, account: str, consumer: Consumer) -> None:
        """Create or change a consumer. It is removed together with its stream."""
        ...

    async def put_bucket(self, account: str, bucket: Bucket) -> None: ...

    async def remove_bucket(self, account: str, name: str) -> None: ...

    def bucket_settings(self, bucket: Bucket) -> ObjectSettings:
        """Return a bucket's settings in the form that `actual` uses."""
        ...

    async def identity(self, account: str, user: str) -> Identity:
        """Return the user's current identity, without revocations."""
        ...

    async def creds(self, account: str, user: str) -> str:
        """Return the text of a valid `.creds` file with the user's current permissions."""
        ...

    async def renew(self, account: str, user: str) -> None:
        """Give the user a new identity. Credentials of the previous one stay valid until it is retired."""
        ...

    async def retire(self, account: str, user: str, identity: str) -> None:
        """Revoke all credentials of a former identity (by its issuer, else its key)."""
        ...

    async def issue(self, account: str, user: str) -> str:
        """Return new credentials. The old ones stay valid until their key is revoked."""
        ...

    async def revoke(self, account: str, key: str) -> None:
        """Revoke everything issued to a user's public key until now, by the server's clock."""
        ...

    async def gateway_token(self, account: str, user: str) -> str:
        """Return a token with which the HTTP gateway acts as the user."""
        ...
