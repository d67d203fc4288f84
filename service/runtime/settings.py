"""Read the environment once into a frozen object. Each role extends these classes with its own variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import HEALTH_PORT
from service.runtime.errors import ServiceError
from service.runtime.words import in_words

TableName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{3,255}$")]
RetentionDays = Annotated[
    int, Field(ge=0, le=36_500, description="days after which a row expires (attribute expires_at); 0: never")
]
AnySettings = TypeVar("AnySettings", bound="Settings")


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """Settings of every role. Only the environment configures a role.

    The SDK reads AWS's own variables (region, endpoint, credentials, profile). `--help` shows each field's description
    and default.
    """

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    health_host: Annotated[str, Field(description="address of the health page")] = "0.0.0.0"  # noqa: S104
    health_port: Annotated[int, Field(ge=0, le=65535, description="/healthz, /readyz, /metrics; 0: any free port")] = (
        HEALTH_PORT
    )
    shutdown_timeout: Annotated[float, Field(gt=0, le=3600, description="seconds to drain after SIGTERM")] = 25.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(_lower),
        Field(description="debug, info, warning or error"),
    ] = "info"
    log_format: Annotated[
        Literal["json", "console"] | None,
        BeforeValidator(_lower),
        Field(description="json or console; not set: console on a terminal"),
    ] = None


def load(settings: type[AnySettings]) -> AnySettings:
    """Read the settings of this process.

    Raise `ServiceError` that names the first bad variable and its rule, without the variable's value.
    """
    try:
        return settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]).upper()
        if first["type"] == "missing":
            (example,) = settings.model_fields[name.lower()].examples or ["..."]
            raise ServiceError(f"{name} is not set", f"set it, for example {name}={example}") from None
        raise ServiceError(f"{name} is not valid: {in_words(first)}", f"correct {name} or unset it") from None


def variables(settings: type[Settings]) -> Iterator[tuple[str, str, str]]:
    """Yield each environment variable: name, meaning, default ("required" if it has none)."""
    for name, field in settings.model_fields.items():
        default = "required" if field.is_required() else "" if field.default is None else f"{field.default}"
        yield name.upper(), field.description or "", default
