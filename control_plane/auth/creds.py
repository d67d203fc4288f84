"""Parse and check a `.creds` file, and compare it with what its user should have.

https://docs.nats.io/using-nats/developer/connecting/creds
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from control_plane.auth.claims import Key
from control_plane.resources import User
from control_plane.settings import Difference, ObjectSettings, differences, user_settings
from service.nats import creds


@dataclass(frozen=True)
class Creds:
    """A user's JWT and key. Neither the JWT nor the seed appears in its repr."""

    text: str = field(repr=False)
    claims: ObjectSettings = field(repr=False)
    key: Key

    @classmethod
    def parse(cls, text: str) -> Creds:
        """Parse the text. Raises `ValueError`, without quoting the text, if it is not a complete `.creds` file."""
        try:
            there = creds.parse(text)
        except ValueError as error:
            raise ValueError(f"not a .creds file: it {error}") from None
        said, key = there.claims, Key.from_seed(there.seed)
        whole = isinstance(said.get("nats"), Mapping) and all(isinstance(said.get(n, 0), int) for n in ("iat", "exp"))
        if said.get("sub") != key.public or not whole:
            raise ValueError("not a .creds file: its claims are of another kind")
        return cls(there.text, said, key)

    @property
    def account(self) -> str | None:
        """The account's public key."""
        account = self.claims["nats"].get("issuer_account") or self.claims.get("iss")
        return str(account) if account else None


@dataclass(frozen=True)
class Identity:
    """What a user's credentials must contain to be valid now."""

    account: str | None
    """The account's public key, if known."""
    key: str | None = None
    """The user's public key, if it must match."""
    issuer: str | None = None
    """The signing key, if it must match; the permissions are then in the key's scope, not in the JWT."""
    expires: bool = False
    """True if its JWTs are issued with an expiry."""
    revoked: Mapping[str, int] = field(default_factory=dict)


def creds_differences(held: Creds, user: User, identity: Identity) -> tuple[Difference, ...]:
    """Return how these credentials differ from those that the user should have now; empty if they match."""
    said, nats = held.claims, held.claims["nats"]
    found = [
        Difference(name, wanted, there)
        for name, wanted, there in (
            ("account", identity.account, held.account),
            ("key", identity.key, held.key.public),
            ("issuer", identity.issuer, said.get("iss")),
        )
        if wanted is not None and wanted != there
    ]
    if found:
        return tuple(found)
    if _is_revoked(held, identity.revoked):
        return (Difference("key", "valid", "revoked"),)
    end = said.get("exp")
    if end and (not identity.expires or end <= time.time()):
        found.append(Difference("expires", "later" if identity.expires else "never", _date(end)))
    allowed = {name: value for name, value in nats.items() if name not in _ABOUT_THE_JWT}
    wanted = {} if identity.issuer else user_settings(user)
    return (*found, *differences("user", wanted, allowed))


_ABOUT_THE_JWT = frozenset({"type", "version", "issuer_account"})


def _is_revoked(held: Creds, revoked: Mapping[str, int]) -> bool:
    """Return whether they are revoked. A revocation covers JWTs issued for a key up to a time; `*` is any key."""
    until = max(revoked.get(held.key.public, 0), revoked.get("*", 0))
    return bool(until and held.claims.get("iat", 0) <= until)


def _date(second: Any) -> str:
    return datetime.fromtimestamp(float(second), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
