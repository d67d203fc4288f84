"""The one folder in which the local system keeps its keys, credentials, stores and logs."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane import claims
from control_plane.claims import Key
from control_plane.files import GATEWAY_TOKEN, Files, write_private
from control_plane.wanted import ADMINISTRATOR
from local.process import LocalError

DEFAULT: Final = Path(__file__).parent.parent / ".local"
_BASE62: Final = string.digits + string.ascii_letters


@dataclass(frozen=True)
class State:
    """What survives a restart. `reset` is deleting the folder."""

    folder: Path

    @property
    def files(self) -> Files:
        return Files(self.folder / "creds")

    @property
    def operator_path(self) -> Path:
        return self.folder / "keys" / "operator.seed"

    @property
    def system_creds_path(self) -> Path:
        return self.folder / "keys" / "system.creds"

    def operator(self) -> Key:
        """The operator's key, made on first use."""
        return _key(self.operator_path, Key.operator)

    def system(self) -> Key:
        """The system account's key, made on first use."""
        return _key(self.folder / "keys" / "system.seed", Key.account)

    def system_creds(self) -> str:
        """Credentials of a system administrator, written for the control plane's commands too."""
        system = self.system()
        creds = claims.mint_creds(ADMINISTRATOR, system, account=system.public)
        write_private(self.system_creds_path, creds)
        return creds

    def gateway_token(self) -> str:
        """A token as the gateway's look, made on first use."""
        token = self.files.token(GATEWAY_TOKEN)
        if token is None:
            token = "nhg_" + "".join(secrets.choice(_BASE62) for _ in range(40))
            self.files.write_token(GATEWAY_TOKEN, token)
        return token


def _key(path: Path, make: Callable[[], Key]) -> Key:
    if not path.exists():
        write_private(path, make().seed + "\n")
    try:
        return Key.from_seed(path.read_text())
    except ValueError:
        raise LocalError(f"{path} is damaged; run `python -m local reset`") from None
