"""The environment, read once into one frozen object. Each role extends these classes with its own variables."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import HEALTH_PORT
from service.runtime import creds
from service.runtime.errors import ServiceError

AnySettings = TypeVar("AnySettings", bound="Settings")


def _servers(value: str) -> str:
    for server in value.split(","):
        url = urlsplit(server.strip())
        try:
            _ = url.port
        except ValueError:
            raise ValueError("has an invalid port; a port is a number up to 65535") from None
        if url.scheme not in {"nats", "tls", "ws", "wss"} or not url.hostname:
            raise ValueError("must be one or more of nats://HOST:PORT or tls://HOST:PORT, comma separated")
    return value


def _creds(value: Any) -> Any:
    """A `.creds` text that every client can read, out of its base64; the value itself never appears in an error."""
    if value is None:
        return None
    try:
        decoded = base64.b64decode("".join(str(value).split()), validate=True)
    except ValueError:
        raise ValueError("must be the base64 of a .creds file (base64 -w0 service.creds)") from None
    try:
        return creds.parse(decoded).text
    except ValueError as error:
        raise ValueError(f"the base64 of a file that {error}") from None


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """What every role is told by its environment. Nothing else configures a role.

    The AWS SDK's own variables (region, endpoint, credentials, profile) are read by the SDK. A field's description
    and default are its line in `--help`.
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


class NatsSettings(Settings):
    """For a role that connects to NATS."""

    nats_url: Annotated[
        str, AfterValidator(_servers), Field(description="servers, comma separated; tls:// for TLS")
    ] = "tls://connect.ngs.global"
    nats_credentials: Annotated[
        SecretStr | None,
        BeforeValidator(_creds),
        Field(description="base64 of the .creds file; kept in memory; not set: none"),
    ] = None
    nats_certificate: Annotated[
        str | None, Field(description="path of the client's certificate, for servers that verify; PEM")
    ] = None
    nats_key: Annotated[str | None, Field(description="path of its key; PEM")] = None
    nats_tls_handshake_first: Annotated[
        bool, Field(description="true: TLS before the server's first word (handshake_first)")
    ] = False

    @property
    def nats_servers(self) -> list[str]:
        return [server.strip() for server in self.nats_url.split(",")]

    @property
    def nats_shown(self) -> str:
        """The servers without what NATS_URL may tell of a user: for logs and messages."""
        return ",".join(re.sub(r"//.*@", "//", server) for server in self.nats_servers)


def load(settings: type[AnySettings]) -> AnySettings:
    """The settings of this process.

    Raises `ServiceError` that names the first bad variable and its rule, without the variable's value.
    """
    try:
        return settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]).upper()
        if first["type"] == "missing":
            (example,) = settings.model_fields[name.lower()].examples or ["..."]
            raise ServiceError(f"{name} is not set", f"set it, for example {name}={example}") from None
        rule = first["msg"].removeprefix("Value error, ")
        raise ServiceError(f"{name} is not valid: {rule}", f"correct {name} or unset it") from None


def variables(settings: type[Settings]) -> Iterator[tuple[str, str, str]]:
    """Each environment variable: its name, what it means, its default."""
    for name, field in settings.model_fields.items():
        default = "required" if field.is_required() else "" if field.default is None else f"{field.default}"
        yield name.upper(), field.description or "", default
