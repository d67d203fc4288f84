"""An account's folder with credentials and tokens: readable by its owner alone, each file whole or not there."""

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
    """`.creds` of users and tokens, in one folder that git ignores.

    `former` is where they were when every account's were in one folder: read as long as nothing newer is there.
    """

    folder: Path
    former: Path | None = None

    def creds_path(self, user: str) -> Path:
        return self.folder / f"{user}.creds"

    def creds(self, user: str) -> str | None:
        return _read(self.creds_path(user))

    def former_path(self, user: str) -> Path | None:
        """Where a user's credentials still are, in the former place; None when they are in their own, or nowhere."""
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
        """Where a user's token for the HTTP gateway is; and the control plane's own token."""
        return self.folder / f"{name}.token"

    def token(self, name: str) -> str | None:
        text = _read(self.token_path(name))
        return (text or "").strip() or None

    def write_token(self, name: str, token: str, owner: str = "") -> None:
        """`owner` says which account's and which key's it is: a token itself tells nothing."""
        write_private(self.token_path(name), token + "\n")
        if owner:
            self._note("tokens", name, {"owner": owner, "sha256": _digest(token)})

    def token_owner(self, name: str) -> str | None:
        """Whose token it is; None when there is none, or nothing is known of it."""
        noted, token = self._noted("tokens").get(name), self.token(name)
        return str(noted["owner"]) if noted and token and noted["sha256"] == _digest(token) else None

    def rotation(self, user: str) -> dict[str, Any] | None:
        """A rotation that was begun and not finished."""
        found: dict[str, Any] | None = self._noted("rotations").get(user)
        return found

    def note_rotation(self, user: str, rotation: dict[str, Any] | None) -> None:
        self._note("rotations", user, rotation)

    def is_empty(self) -> bool:
        return not any(True for _ in self._ours())

    def remove(self, account: str | None = None) -> None:
        """Everything in the folder, and what belongs to `account` (a public key) in the former place."""
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
    """Whether nobody but its owner can read a file."""
    return not stat.S_IMODE(path.stat().st_mode) & 0o077


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically: it is there whole, or not at all."""
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
