"""The one folder in which the local system keeps its keys, credentials, stores and logs."""

from __future__ import annotations

import json
import secrets
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane import claims
from control_plane.claims import Key
from control_plane.wanted import Account, User
from local.process import LocalError, write_private

DEFAULT: Final = Path(__file__).parent.parent / ".local"
_BASE62: Final = string.digits + string.ascii_letters


@dataclass(frozen=True)
class Keys:
    """Of the operator, its system account, and the account that is provisioned in it."""

    operator: Key
    system: Key
    account: Key
    signing: Key

    @classmethod
    def new(cls) -> Keys:
        return cls(Key.operator(), Key.account(), Key.account(), Key.account())


@dataclass(frozen=True)
class State:
    """What survives a restart. `reset` is deleting the folder."""

    folder: Path

    def keys(self) -> Keys:
        """The keys, made on first use."""
        path = self.folder / "keys.json"
        if not path.exists():
            keys = Keys.new()
            seeds = {name: getattr(keys, name).seed for name in Keys.__dataclass_fields__}
            write_private(path, json.dumps(seeds))
            return keys
        try:
            seeds = json.loads(path.read_text())
            return Keys(**{name: Key.from_seed(seeds[name]) for name in Keys.__dataclass_fields__})
        except (ValueError, KeyError, TypeError):
            raise LocalError(f"{path} is damaged; run `python -m local reset`") from None

    def creds_path(self, user: str) -> Path:
        return self.folder / "creds" / f"{user}.creds"

    def creds(self, user: User, keys: Keys) -> str:
        """The user's `.creds` with the permissions wanted today, written for the user's own tools."""
        text = claims.mint_creds(user, keys.signing, account=keys.account.public)
        write_private(self.creds_path(user.name), text)
        return text

    def all_creds(self, account: Account, keys: Keys) -> dict[str, str]:
        return {user.name: self.creds(user, keys) for user in account.users}

    def gateway_token(self) -> str:
        """A token as the gateway's look, made on first use."""
        path = self.folder / "creds" / "gateway.token"
        if not path.exists():
            write_private(path, "nhg_" + "".join(secrets.choice(_BASE62) for _ in range(40)))
        return path.read_text().strip()
