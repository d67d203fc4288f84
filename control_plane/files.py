"""An account's folder of credentials and tokens: readable only by its owner, each file written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control_plane.auth.creds import Creds
from control_plane.errors import ProvisioningError

RECORD: Final = "provisioning.json"
FORMER_TOKEN: Final = "http-gateway"  # noqa: S105  its name


@dataclass(frozen=True)
class Files:
    """Users' `.creds` and tokens, in one folder that git ignores.

    `former` is the folder that all accounts once shared: it is read if the new folder lacks a file.
    """

    folder: Path
    former: Path | None = None

    def creds_path(self, user: str) -> Path:
        return self.folder / f"{user}.creds"

    def creds(self, user: str) -> str | None:
        return _read(self.creds_path(user))

    def former_path(self, user: str) -> Path | None:
        """Return the path of credentials that exist only in the former folder, or None."""
        path = self.former / f"{user}.creds" if self.former else None
        return path if path and path.exists() and not self.creds_path(user).exists() else None

    def creds_anywhere(self, user: str) -> str | None:
        former = self.former_path(user)
        return _read(former) if former else self.creds(user)

    def write_creds(self, user: str, text: str) -> None:
        former = self.former_path(user)
        write_private(self.creds_path(user), text)
        if former and _account(_read(former)) == _account(text):
            former.unlink()

    def token_path(self, name: str) -> Path:
        """Return the path of a user's token for the HTTP gateway, or of the control plane's own token."""
        return self.folder / f"{name}.token"

    def token(self, name: str) -> str | None:
        text = _read(self.token_path(name))
        return (text or "").strip() or None

    def write_token(self, name: str, token: str, owner: str = "") -> None:
        """Write a token. `owner` names its account and key, which cannot be read from the token."""
        write_private(self.token_path(name), token + "\n")
        if owner:
            self._note("tokens", name, {"owner": owner, "sha256": _digest(token)})

    def token_owner(self, name: str) -> str | None:
        """Return the owner noted for the token; None without a token or a note."""
        noted, token = self._noted("tokens").get(name), self.token(name)
        return str(noted["owner"]) if noted and token and noted["sha256"] == _digest(token) else None

    def rotation(self, user: str) -> dict[str, Any] | None:
        """Return the user's unfinished rotation, or None."""
        found: dict[str, Any] | None = self._noted("rotations").get(user)
        return found

    def note_rotation(self, user: str, rotation: dict[str, Any] | None) -> None:
        self._note("rotations", user, rotation)

    def is_empty(self) -> bool:
        return not any(True for _ in self._ours())

    def remove(self, account: str | None = None) -> None:
        """Delete everything in the folder, and credentials of `account` (a public key) in the former folder."""
        for path in self._ours():
            path.unlink(missing_ok=True)
        if self.former:
            for path in self.former.glob("*.creds"):
                if account and _account(_read(path)) == account:
                    path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _ours(self) -> Iterator[Path]:
        yield from self.folder.glob("*.creds")
        yield from self.folder.glob("*.token")
        yield from self.folder.glob(RECORD)

    def _noted(self, kind: str) -> dict[str, Any]:
        text = _read(self.folder / RECORD)
        try:
            noted = json.loads(text) if text else {}
            return {name: dict(entry) for name, entry in noted.get(kind, {}).items()}
        except (ValueError, AttributeError, TypeError):
            raise ProvisioningError(f"{self.folder / RECORD} is damaged; delete it, and run create again") from None

    def _note(self, kind: str, name: str, entry: dict[str, Any] | None) -> None:
        noted = {each: self._noted(each) for each in ("tokens", "rotations")}
        if entry is None:
            noted[kind].pop(name, None)
        else:
            noted[kind][name] = entry
        write_private(self.folder / RECORD, json.dumps(noted, indent=2) + "\n")


def is_private(path: Path) -> bool:
    """Return whether only its owner can read a file."""
    return not stat.S_IMODE(path.stat().st_mode) & 0o077


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically: it is complete, or does not exist."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ProvisioningError(f"{path} cannot be written ({error.strerror}); see that its folder can be") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ProvisioningError(f"{path} is damaged: it is not text; delete it to have it made again") from None
    except OSError as error:
        raise ProvisioningError(f"{path} cannot be read ({error.strerror}); move it out of the way") from None


def _account(creds: str | None) -> str | None:
    try:
        return Creds.parse(creds or "").account
    except ValueError:
        return None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
