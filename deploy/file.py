"""`settings.toml`, read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("settings.toml")


class SettingsError(Exception):
    """Which file cannot be used, and why: one line."""


def read(path: Path = FILE) -> dict[str, Any]:
    """Return what it sets. Raise `SettingsError` where it cannot be read."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path.name}: {error}") from None
