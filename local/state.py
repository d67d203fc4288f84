"""The folder in which the local system keeps its keys, credentials, stores and logs."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.auth import claims
from control_plane.auth.claims import Key
from control_plane.desired import ADMINISTRATOR
from control_plane.files import Files, write_private
from local.process import LocalError

DEFAULT: Final = Path(__file__).parent.parent / ".local"
MARKER: Final = ".customer-balance"
"""This file marks a folder as this system's state; it is locked while a process uses the folder."""
PARTS: Final = frozenset({"keys", "creds", "nats", "dynamodb", "logs", "devices"})
_BASE62: Final = string.digits + string.ascii_letters


@dataclass(frozen=True)
class State:
    """The state that survives a restart."""

    folder: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create or open the folder, for this process only.

        Raises `LocalError` when it holds something else, or another process uses it.
        """
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise LocalError(f"{folder} is not a folder; give another with --state")
        found = {path.name for path in folder.iterdir()} if folder.exists() else set()
        # Before the marker existed, a state folder had only these parts.
        if found and MARKER not in found and not (found <= PARTS and self.operator_path.is_file()):
            raise LocalError(f"{folder} is not empty and not a state folder of this system; give another with --state")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise LocalError(f"{folder} is in use by another `python -m local`; stop that, or give --state") from None
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Delete this system's parts of the folder, and the folder if nothing else is in it."""
        for part in PARTS:
            if (self.folder / part).exists():
                shutil.rmtree(self.folder / part)
        (self.folder / MARKER).unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def tighten(self) -> list[Path]:
        """Remove other users' permissions from keys and credentials; return the files that had any."""
        secret = [
            path for part in ("keys", "creds", "devices") for path in (self.folder / part).glob("*") if path.is_file()
        ]
        loose = [path for path in secret if stat.S_IMODE(path.stat().st_mode) & 0o077]
        for path in loose:
            path.chmod(0o600)
        return loose

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
        """Return the operator's key, made on first use."""
        if not self.operator_path.exists() and (self.folder / "nats" / "accounts").exists():
            raise LocalError(
                f"{self.operator_path} is missing, and the accounts in {self.folder / 'nats'} are signed with it; "
                f"put it back, or run `python -m local reset --state {self.folder}`"
            )
        return _key(self.operator_path, Key.operator)

    def system(self) -> Key:
        """Return the system account's key, made on first use."""
        return _key(self.folder / "keys" / "system.seed", Key.account)

    def system_creds(self) -> str:
        """Return credentials of a system administrator; also write them, for the control plane's commands."""
        system = self.system()
        creds = claims.mint_creds(ADMINISTRATOR, system, account=system.public)
        write_private(self.system_creds_path, creds)
        return creds

    def gateway_token(self, user: str) -> str:
        """Return a user's token in the gateway's format, made on first use."""
        token = self.files.token(user)
        if not token:
            token = "nhg_" + "".join(secrets.choice(_BASE62) for _ in range(40))
            self.files.write_token(user, token)
        return token


def _key(path: Path, make: Callable[[], Key]) -> Key:
    if not path.exists():
        write_private(path, make().seed + "\n")
    try:
        return Key.from_seed(path.read_text())
    except ValueError:
        raise LocalError(f"{path} is damaged; put it back, or run `python -m local reset`") from None
