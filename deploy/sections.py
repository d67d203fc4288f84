"""The sections of `settings.toml`: one for each optional role of the image, off unless `enabled`."""

from __future__ import annotations

import re
from ipaddress import IPv4Network
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from deploy.fargate import STOP_TIMEOUT_MAX_S, check_size

TableName = Annotated[str, StringConstraints(pattern=r"^([a-zA-Z0-9_.-]{3,255})?$")]
"""Name of an existing table; empty: the stack creates one."""
LARGEST_NETWORK: Final = 8
"""Prefix of the largest network that may call a role: the private 10.0.0.0/8."""
KeyArn = Annotated[str, StringConstraints(pattern=r"^(arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+)?$")]
"""ARN of an existing table's customer managed key; empty: a key owned by AWS."""
_SECRET: Final = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:.+-[A-Za-z0-9]{6}")
_QUEUE: Final = r"[A-Za-z0-9_-]{1,80}(\.fifo)?"
QueueName = Annotated[str, StringConstraints(pattern=rf"^({_QUEUE}|arn:aws[a-z-]*:sqs:[a-z0-9-]+:\d{{12}}:{_QUEUE})?$")]
"""Name or ARN of an existing queue; empty: the stack creates one."""


def check_client(value: str) -> str:
    """Return a security group's id or an IPv4 network unchanged. Raise `ValueError` for anything else."""
    if re.fullmatch(r"sg-[0-9a-f]{8,17}", value):
        return value
    try:
        network = IPv4Network(value)
    except ValueError as error:
        raise ValueError(f"{value} is neither a security group's id nor an IPv4 network ({error})") from None
    if network.prefixlen < LARGEST_NETWORK:
        raise ValueError(f"{value} is larger than /{LARGEST_NETWORK}; name the clients' networks")
    return value


def check_secret(value: str) -> str:
    """Return a secret's complete ARN, or an empty string, unchanged. Raise `ValueError` for anything else."""
    if value and not _SECRET.fullmatch(value):
        raise ValueError(
            "it must be the complete ARN of a secret in Secrets Manager, with the six characters at its end"
        )
    return value


SecretArn = Annotated[str, AfterValidator(check_secret)]
"""Complete ARN of a secret; empty: none."""


class ExistingTable(BaseModel):
    """A table that exists already; empty: the stack creates one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    existing_table: TableName = ""
    existing_table_key: KeyArn = ""

    @model_validator(mode="after")
    def _has_the_table_of_its_key(self) -> Self:
        if self.existing_table_key and not self.existing_table:
            raise ValueError("existing_table_key: it is the key of existing_table, which is empty")
        return self


class AdjustmentsSection(ExistingTable):
    """[adjustments]"""


class Section(BaseModel):
    """Settings of every optional role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    cpu: int = 256
    memory: int = 512

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        check_size(self.cpu, self.memory)
        return self


class Reader(Section):
    """Settings of a role that reads messages."""

    source: Literal["jetstream", "sqs"] = "jetstream"
    queue: QueueName = ""

    @model_validator(mode="after")
    def _names_a_queue_to_read(self) -> Self:
        if self.queue and self.source != "sqs":
            raise ValueError('queue: it is read only with source = "sqs"')
        return self

    @property
    def queue_region(self) -> str:
        """Region in the ARN; empty for a name."""
        return self.queue.split(":")[3] if self.queue.startswith("arn:") else ""

    @property
    def queue_account(self) -> str:
        """Account in the ARN; empty for a name."""
        return self.queue.split(":")[4] if self.queue.startswith("arn:") else ""


class QueueSection(Reader):
    """[queue]"""

    image: str = ""
    architecture: Literal["", "arm64", "x86-64"] = ""
    read_only: bool = True
    tasks: Annotated[int, Field(ge=1, le=100)] = 1
    max_deliver: Annotated[int, Field(ge=1, le=1000)] = 10
    stop_timeout: Annotated[int, Field(ge=2, le=STOP_TIMEOUT_MAX_S)] = 30

    @model_validator(mode="after")
    def _has_a_business(self) -> Self:
        if self.enabled and not self.image:
            raise ValueError("image: name the business container's image")
        return self


class ScalingStep(BaseModel):
    """From a backlog of `backlog` messages, run `tasks` tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backlog: Annotated[int, Field(ge=1, le=10**12)]
    tasks: Annotated[int, Field(ge=1, le=100)]


STEPS_MAX: Final = 20
"""Per policy: https://docs.aws.amazon.com/autoscaling/application/userguide/application-auto-scaling-quotas.html"""


class ArchiveSection(Reader, ExistingTable):
    """[archive]"""

    idle_exit: Annotated[int, Field(ge=0)] = 60
    retention_days: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[tuple[ScalingStep, ...], Field(max_length=STEPS_MAX)] = (
        ScalingStep(backlog=1, tasks=1),
        ScalingStep(backlog=100_000, tasks=2),
        ScalingStep(backlog=1_000_000, tasks=4),
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        for lower, upper in pairwise(self.steps):
            if upper.backlog <= lower.backlog or upper.tasks <= lower.tasks:
                raise ValueError("steps: each has more backlog and more tasks than the one before")
        if not self.steps:
            raise ValueError("steps: at least one")
        return self

    def tasks(self, backlog: int) -> int:
        """Return how many tasks a backlog requires."""
        return max((step.tasks for step in self.steps if backlog >= step.backlog), default=0)


class DevicesSection(Section, ExistingTable):
    """[devices]"""

    tasks: Annotated[int, Field(ge=1, le=100)] = 2
    facility: Annotated[str, StringConstraints(max_length=128)] = ""
    silence: Annotated[int, Field(ge=0, le=30 * 86_400)] = 0
    pulse: Annotated[float, Field(ge=0, le=86_400)] = 0
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    silent_minutes: Annotated[int, Field(ge=0, le=10_080)] = 15
    webhook_secret: SecretArn = ""
    webhook_form: Literal["json", "groupme", "slack"] = "json"
    tls_secret: SecretArn = ""
    clients: tuple[Annotated[str, AfterValidator(check_client)], ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.clients) != bool(self.tls_secret):
            raise ValueError("tls_secret: it and clients are given together, or neither")
        if 0 < self.silent_minutes * 60 <= self.pulse:
            raise ValueError(
                f"silent_minutes: readings are requested every {self.pulse:g} s, so each pause would raise the alarm; "
                "give more minutes, or 0"
            )
        return self

    @property
    def secrets(self) -> dict[str, tuple[str, ...]]:
        """Return the keys that must be in each secret that is named, by the secret's ARN."""
        webhook = ("url", "bot_id") if self.webhook_form == "groupme" else ("url",)
        tls = ("certificate", "key", "client_ca")
        if self.webhook_secret == self.tls_secret:
            return {self.tls_secret: (*webhook, *tls)} if self.tls_secret else {}
        return {arn: keys for arn, keys in ((self.webhook_secret, webhook), (self.tls_secret, tls)) if arn}
