"""`settings.toml`, checked: whatever would fail late says so now, in one line."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from control_plane.aws import caller_initials, check_initials, configured_region
from control_plane.errors import ProvisioningError
from service.customer.settings import CustomerSettings

FILE: Final = Path(__file__).with_name("settings.toml")
SECRET_PARAMETER: Final = "NatsSecretArn"  # noqa: S105  the template's name for it
STOP_TIMEOUT_MAX_S: Final = 120
"""Fargate's limit between SIGTERM and SIGKILL."""

_GIB: Final = 1024
MEMORY_OF_CPU: Final = {
    256: {512, 1024, 2048},
    512: set(range(1 * _GIB, 4 * _GIB + 1, _GIB)),
    1024: set(range(2 * _GIB, 8 * _GIB + 1, _GIB)),
    2048: set(range(4 * _GIB, 16 * _GIB + 1, _GIB)),
    4096: set(range(8 * _GIB, 30 * _GIB + 1, _GIB)),
    8192: set(range(16 * _GIB, 60 * _GIB + 1, 4 * _GIB)),
    16384: set(range(32 * _GIB, 120 * _GIB + 1, 8 * _GIB)),
}
"""https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html"""

_DEFAULTS: Final = CustomerSettings.model_fields

Count = Annotated[int, Field(ge=1, le=1000)]


class Settings(BaseModel):
    """A deployment's choices; `cdk/settings.toml` says what each means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
    initials: str
    environment: Literal["poc", "production"] = "poc"
    architecture: Literal["arm64", "x86-64"] = "arm64"
    cpu: int = 512
    memory: int = 1024
    tasks: Count = 3
    min_tasks: Count = 3
    max_tasks: Count = 12
    target_cpu: Annotated[int, Field(ge=10, le=90)] = 60
    target_in_flight: Annotated[int, Field(ge=1)] = 100
    network: Literal["private", "public"] = "private"
    spot: bool = False
    nats_url: str = _DEFAULTS["nats_url"].default
    seed_rows: Annotated[int, Field(ge=0)] = _DEFAULTS["seed_rows"].default
    max_in_flight: Annotated[int, Field(ge=1)] = _DEFAULTS["max_in_flight"].default
    shutdown_timeout: Annotated[int, Field(ge=1, le=STOP_TIMEOUT_MAX_S - 5)] = int(
        _DEFAULTS["shutdown_timeout"].default
    )
    log_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365] = 30

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.cpu not in MEMORY_OF_CPU:
            raise ValueError(f"cpu: Fargate has {', '.join(map(str, MEMORY_OF_CPU))}, not {self.cpu}")
        if self.memory not in MEMORY_OF_CPU[self.cpu]:
            least, most = min(MEMORY_OF_CPU[self.cpu]), max(MEMORY_OF_CPU[self.cpu])
            raise ValueError(f"memory: with cpu {self.cpu}, Fargate has {least} to {most} MiB, not {self.memory}")
        if self.max_tasks < self.min_tasks:
            raise ValueError(f"max_tasks: {self.max_tasks} is less than min_tasks, {self.min_tasks}")
        if not self.min_tasks <= self.tasks <= self.max_tasks:
            raise ValueError(f"tasks: {self.tasks} is not between min_tasks and max_tasks")
        return self

    @property
    def stack_name(self) -> str:
        return f"CustomerBalance-{self.initials}"

    @property
    def table_name(self) -> str:
        return f"customer-balances-{self.initials}"


def load(path: Path = FILE) -> Settings:
    """The settings of this deployment.

    Raises `ProvisioningError` that names the first setting that will not do, and why.
    """
    try:
        given = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ProvisioningError(f"{path.name}: {error}") from None
    given["region"] = given.get("region") or configured_region() or ""
    if not given["region"]:
        raise ProvisioningError(f"{path.name}: region is empty, and your AWS profile has none; set it, or AWS_REGION")
    given["initials"] = given.get("initials") or os.environ.get("INITIALS") or caller_initials() or ""
    if not given["initials"]:
        raise ProvisioningError(f"{path.name}: initials is empty, and AWS does not say who you are; set it, or sign in")
    given["initials"] = check_initials(given["initials"])
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = f"{first['loc'][0]}: " if first["loc"] else ""
        raise ProvisioningError(f"{path.name}: {name}{first['msg'].removeprefix('Value error, ')}") from None
