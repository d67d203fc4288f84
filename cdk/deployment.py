"""The settings of this deployment: AWS supplies what the file leaves empty."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from control_plane.aws import caller_initials, check_initials, configured_region
from control_plane.errors import ProvisioningError
from deploy.file import FILE, SettingsError, read
from deploy.settings import ASSUMED, Settings
from service.runtime.words import in_words

_MISSING: Final = {
    "region": "your AWS profile has none; set it, or AWS_REGION",
    "initials": "AWS does not say who you are; set it, or sign in",
}


def load(path: Path = FILE) -> Settings:
    """Return the settings of this deployment.

    Raises `ProvisioningError` with the first invalid setting and why it is invalid.
    """
    given = _read(path)
    for name, remedy in _MISSING.items():
        if not given[name]:
            raise ProvisioningError(f"{path.name}: {name} is empty, and {remedy}")
    return _checked(path, given)


def load_or_assume(path: Path = FILE, **instead: Any) -> tuple[Settings, list[str]]:
    """Return the settings and, if no AWS account is known, the names of those assumed. `instead` overrides some."""
    given = {**_read(path), **instead}
    assumed = [name for name in ASSUMED if not given[name]]
    return _checked(path, {**given, **{name: ASSUMED[name] for name in assumed}}), assumed


def _read(path: Path) -> dict[str, Any]:
    try:
        given = read(path)
    except SettingsError as error:
        raise ProvisioningError(str(error)) from None
    given["region"] = given.get("region") or configured_region()
    given["initials"] = given.get("initials") or os.environ.get("INITIALS") or caller_initials()
    return given


def _checked(path: Path, given: Mapping[str, Any]) -> Settings:
    try:
        return Settings(**{**given, "initials": check_initials(given["initials"])})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) + ": " if first["loc"] else ""
        raise ProvisioningError(f"{path.name}: {name}{in_words(first)}") from None
