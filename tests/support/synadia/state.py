"""What the fake of Synadia's control plane knows, and how it is to fail."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from control_plane.auth import claims
from control_plane.auth.claims import Key

Failure = Literal["500", "lost before", "lost after"]


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
    """What the control plane knows, and how it is to fail."""

    url: str = ""
    tiers: list[str] = field(default_factory=lambda: ["R1", "R3"])
    jetstream: bool = True
    systems: list[str] = field(default_factory=lambda: ["NGS"])
    accounts: dict[str, Account] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    group_keys: dict[str, Key] = field(default_factory=dict)
    streams: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Configurations, by id; the same of buckets and consumers. `owner` says whose each is."""
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
    """What was asked or answered against the document."""
    fail_from: int | None = None
    """The call from which on every one fails, counted from 0; None: none does."""
    failure: Failure = "500"
    intercept: Callable[[int], web.Response | None] | None = None
    """Given the number of the call, what is answered instead."""
    answer_with: list[web.Response] = field(default_factory=list)
    """Given instead of doing anything, one a call."""
    _ids: Any = field(default_factory=lambda: itertools.count(1))

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
        """Signed by the user's group, with the settings that the user has now."""
        account = self.accounts[user.account]
        body = {"type": "user", "issuer_account": account.key.public, **user.settings}
        expires_s = user.expires_s or account.expires_s or None
        token = claims.sign(user.name, user.key.public, self.group_keys[user.group], body, expires_s=expires_s)
        return claims.creds_file(token, user.key)
