"""The environment, read once into one frozen object."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import ServiceFault


def _servers(value: str) -> str:
    for server in value.split(","):
        url = urlsplit(server.strip())
        if url.scheme not in {"nats", "tls", "ws", "wss"} or not url.hostname:
            raise ValueError("must be one or more of nats://HOST:PORT or tls://HOST:PORT, comma separated")
    return value


def _creds(value: Any) -> Any:
    """The text of the `.creds` file out of its base64; the value itself never appears in an error."""
    if value is None:
        return None
    try:
        text = base64.b64decode("".join(str(value).split()), validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise ValueError("must be the base64 of a .creds file (base64 -w0 service.creds)") from None
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        raise ValueError("decodes to something that is not a .creds file")
    return text if text.endswith("\n") else text + "\n"


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """What the service is told by its environment, and nothing else configures it.

    The AWS SDK's own variables (region, endpoint, credentials, profile) are read by the SDK.
    """

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    nats_url: Annotated[str, AfterValidator(_servers)] = "tls://connect.ngs.global"
    nats_credentials: Annotated[SecretStr | None, BeforeValidator(_creds)] = None
    ddb_table: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{3,255}$")]
    seed_rows: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    health_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    shutdown_timeout: Annotated[float, Field(gt=0, le=3600)] = 25.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    log_format: Annotated[Literal["json", "console"] | None, BeforeValidator(_lower)] = None

    @property
    def nats_servers(self) -> list[str]:
        return [server.strip() for server in self.nats_url.split(",")]


def load() -> Settings:
    """The settings of this process.

    Raises `ServiceFault` that names the first bad variable and its rule, without the variable's value.
    """
    try:
        return Settings()  # type: ignore[call-arg]  # the environment gives them
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]).upper()
        if first["type"] == "missing":
            raise ServiceFault(f"{name} is not set", f"set it, for example {name}=balances") from None
        rule = first["msg"].removeprefix("Value error, ")
        raise ServiceFault(f"{name} is not valid: {rule}", f"set {name} right or leave it out") from None
