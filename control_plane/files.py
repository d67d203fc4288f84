"""The folder with credentials and tokens: readable by its owner alone, each file whole or not there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import ProvisioningError


@dataclass(frozen=True)
class Files:
    """`.creds` of users and tokens, in one folder that git ignores."""

    folder: Path

    def creds_path(self, user: str) -> Path:
        return self.folder / f"{user}.creds"

    def creds(self, user: str) -> str | None:
        return _read(self.creds_path(user))

    def write_creds(self, user: str, text: str) -> None:
        write_private(self.creds_path(user), text)

    def token_path(self, name: str) -> Path:
        """Where a user's token for the HTTP gateway is; and the control plane's own token."""
        return self.folder / f"{name}.token"

    def token(self, name: str) -> str | None:
        text = _read(self.token_path(name))
        return (text or "").strip() or None

    def write_token(self, name: str, token: str) -> None:
        write_private(self.token_path(name), token + "\n")

    def remove(self, *users: str) -> None:
        for path in (*map(self.creds_path, users), *map(self.token_path, users)):
            path.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically: it is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ProvisioningError(f"{path} is damaged: it is not text; delete it to have it made again") from None
