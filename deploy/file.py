"""Read `settings.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("settings.toml")


class SettingsError(Exception):
    """The file cannot be used; the message is one line with its name and the reason."""


def read(path: Path = FILE) -> dict[str, Any]:
    """Return its contents. Raise `SettingsError` if it cannot be read or parsed."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path.name}: {error}") from None
