"""A self-hosted server's users, each a scoped signing key in the account's JWT (docs/adr/0006-self-hosted.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.auth.creds import Identity
from control_plane.errors import ProvisioningError


def identity(account: str, body: Mapping[str, Any], scope: Mapping[str, Any]) -> Identity:
    return Identity(account, issuer=scope["key"], revoked=body.get("revocations") or {})


def role_of(key: Any) -> str | None:
    return key.get("role") if isinstance(key, dict) else None


def key_of(key: Any) -> Any:
    return key.get("key") if isinstance(key, dict) else key


def of_user(body: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
    """Return a user's scoped signing keys, newest last: one, or two during a rotation."""
    found = [key for key in body.get("signing_keys") or () if role_of(key) == user]
    return sorted(found, key=generation)


def newest(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the newest scoped signing key of each user."""
    roles = [role for key in body.get("signing_keys") or () if (role := role_of(key))]
    return {role: of_user(body, role)[-1] for role in roles}


def of(body: Mapping[str, Any], user: str) -> dict[str, Any]:
    scope = newest(body).get(user)
    if scope is None:
        raise ProvisioningError(f"there is no user {user}; run create")
    return scope


def put(body: dict[str, Any], key: Any) -> None:
    """Add a signing key, or replace it in place."""
    there = {key_of(each): each for each in body.get("signing_keys") or ()}
    body["signing_keys"] = list({**there, key_of(key): key}.values())


def remove(body: dict[str, Any], user: str, key: str | None = None) -> None:
    """Remove a user's signing keys, or one of them."""
    there = body.get("signing_keys") or ()
    body["signing_keys"] = [each for each in there if role_of(each) != user or key not in {None, key_of(each)}]


def generation(scope: Mapping[str, Any]) -> int:
    """Return this signing key's number among the user's, from 0."""
    text = str(scope.get("description") or "")
    return int(text) if text.isdecimal() else 0
