"""The operations a NATS host must support; implemented for Synadia Cloud and for a self-hosted nats-server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from control_plane.auth.creds import Identity
from control_plane.desired import Bucket, Consumer, Limits, Stream, User
from control_plane.settings import Settings


@dataclass(frozen=True)
class AccountSummary:
    id: str
    name: str
    is_system: bool
    is_ours: bool
    """Whether this program made it, or took it over: it carries `desired.TAG`."""


@dataclass(frozen=True)
class Actual:
    """What an account has, in NATS's own words."""

    key: str | None
    """The account's public key, where it is known."""
    limits: Settings
    users: Mapping[str, Settings]
    identities: Mapping[str, Identity]
    """Of the same users."""
    streams: Mapping[str, Settings]
    buckets: Mapping[str, Settings]
    consumers: Mapping[tuple[str, str], Settings]
    """Durable ones, by stream and name."""


class Provider(Protocol):
    """Each call either does all of what it says, or raises `ProvisioningError` and can be made again.

    `put_*` makes what is not there and changes what is different; `remove_*` is content when there is nothing.
    """

    has_gateway: bool
    """Whether it issues tokens for an HTTP gateway."""

    async def accounts(self) -> Sequence[AccountSummary]: ...

    async def actual(self, account: str) -> Actual: ...

    async def max_replicas(self) -> int: ...

    async def takes_batches(self) -> bool:
        """Whether a stream may have `allow_batched`."""
        ...

    async def create_account(self, name: str, limits: Limits) -> str:
        """The new account's id."""
        ...

    async def adopt(self, account: str) -> None:
        """Take over an account that somebody else made."""
        ...

    async def put_limits(self, account: str, limits: Limits) -> None: ...

    async def remove_account(self, account: str) -> None: ...

    async def put_user(self, account: str, user: User) -> None: ...

    async def remove_user(self, account: str, name: str) -> None: ...

    async def put_stream(self, account: str, stream: Stream) -> None: ...

    async def remove_stream(self, account: str, name: str) -> None: ...

    async def put_consumer(self, account: str, consumer: Consumer) -> None:
        """It goes with its stream."""
        ...

    async def put_bucket(self, account: str, bucket: Bucket) -> None: ...

    async def remove_bucket(self, account: str, name: str) -> None: ...

    def bucket_settings(self, bucket: Bucket) -> Settings:
        """A bucket as `actual` tells it."""
        ...

    async def identity(self, account: str, user: str) -> Identity:
        """Whose credentials are the user's now; revocations are not looked at."""
        ...

    async def creds(self, account: str, user: str) -> str:
        """The text of a `.creds` file that works now, with the permissions that the user has now."""
        ...

    async def renew(self, account: str, user: str) -> None:
        """Another identity for the user. Credentials of the one before stay valid until it is retired."""
        ...

    async def retire(self, account: str, user: str, identity: str) -> None:
        """Make void whatever a former identity (its issuer, else its key) gave out."""
        ...

    async def issue(self, account: str, user: str) -> str:
        """New credentials beside the old ones, which stay valid until their key is revoked."""
        ...

    async def revoke(self, account: str, key: str) -> None:
        """Revoke what was issued until now to a user's public key, by the server's clock."""
        ...

    async def gateway_token(self, account: str, user: str) -> str:
        """A token with which the HTTP gateway acts as the user."""
        ...
