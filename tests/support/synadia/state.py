"""The state of the fake of Synadia's control plane, and how it must fail."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from aiohttp import web

from control_plane.auth import claims
from control_plane.auth.claims import Key

Failure = Literal["500", "lost before", "lost after"]
KEPT: Final = (
    "accounts", "users", "groups", "group_keys", "streams", "buckets", "consumers", "owner", "revoked", "tokens"
)  # fmt: skip
"""What the control plane remembers; the other fields say what was asked of it, and how it must fail."""


@dataclass
class Account:
    id: str
    name: str
    system: bool
    settings: dict[str, Any]
    key: Key = field(default_factory=Key.account)
    expires_s: int = 0


@dataclass
class User:
    id: str
    account: str
    name: str
    group: str
    settings: dict[str, Any]
    expires_s: int = 0
    key: Key = field(default_factory=Key.user)


@dataclass
class FakeSynadia:
    """The control plane's state, and how it must fail."""

    url: str = ""
    tiers: list[str] = field(default_factory=lambda: ["R1", "R3"])
    jetstream: bool = True
    systems: list[str] = field(default_factory=lambda: ["NGS"])
    accounts: dict[str, Account] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    group_keys: dict[str, Key] = field(default_factory=dict)
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Configurations by id, as for buckets and consumers. `owner` says whose each is."""
    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    consumers: dict[str, dict[str, Any]] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    quota: int = 10
    calls: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    deviations: list[str] = field(default_factory=list)
    """Requests and answers that deviate from the document."""
    fail_from: int | None = None
    """Number of the first call that fails, with all after it, counted from 0; None: no call fails."""
    failure: Failure = "500"
    intercept: Callable[[int], web.Response | None] | None = None
    """Take the number of a call, and return the answer to give instead."""
    answer_with: list[web.Response] = field(default_factory=list)
    """Answers to give instead of doing anything, one per call."""
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    def remembered(self) -> Mapping[str, Any]:
        """Return all that it remembers, for `restore`."""
        return deepcopy({name: getattr(self, name) for name in KEPT})

    def restore(self, remembered: Mapping[str, Any]) -> None:
        """Remember that and nothing else: hundreds of calls fewer than to make or delete it again."""
        for name, value in deepcopy(dict(remembered)).items():
            setattr(self, name, value)

    def new_id(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"

    def add_account(self, name: str, *, system: bool = False, **settings: Any) -> str:
        account = Account(self.new_id("acc"), name, system, settings)
        self.accounts[account.id] = account
        return account.id

    def of(self, kind: dict[str, dict[str, Any]], owner: str) -> list[dict[str, Any]]:
        return [item for id_, item in kind.items() if self.owner[id_] == owner]

    def account(self, name: str) -> Account:
        (account,) = [account for account in self.accounts.values() if account.name == name]
        return account

    def user(self, name: str) -> User:
        (user,) = [user for user in self.users.values() if user.name == name]
        return user

    def creds(self, user: User) -> str:
        """Return credentials signed by the user's group, with the user's current settings."""
        account = self.accounts[user.account]
        body = {"type": "user", "issuer_account": account.key.public, **user.settings}
        expires_s = user.expires_s or account.expires_s or None
        token = claims.sign(user.name, user.key.public, self.group_keys[user.group], body, expires_s=expires_s)
        return claims.creds_file(token, user.key)
