"""Check `settings.toml`: anything that would make a deployment fail is reported now, in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from botocore.session import Session
from pydantic import (
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from deploy.fargate import STOP_TIMEOUT_MAX_S, check_size
from deploy.sections import (
    AdjustmentsSection,
    ArchiveSection,
    DevicesSection,
    ExistingTable,
    QueueSection,
    Reader,
)
from service.customer.settings import CustomerSettings

ASSUMED: Final = {"region": "us-east-1", "initials": "POC"}
"""Values for synthesis on a machine without an AWS account."""

_PRODUCTION: Final[Mapping[str, Any]] = {
    "cpu": 512, "memory": 1024, "network": "private", "zones": 3, "dashboard": True, "spot": False,
}  # fmt: skip
"""Defaults of `environment = "production"` that differ from the fields' defaults."""

_DEFAULTS: Final = CustomerSettings.model_fields
_PORTS: Final = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
HTTPS_PORT: Final = 443
DRAIN_MARGIN_S: Final = 5

Count = Annotated[int, Field(ge=1, le=1000)]


@dataclass(frozen=True)
class Table:
    """A table of the deployment."""

    name: str
    exists: bool
    """True if the settings name it: the stack then uses it and creates none."""
    key: str
    """ARN of its customer managed key; empty: a key owned by AWS."""
    section: str
    """The section that names it; empty: the top level of the file."""
    row: str
    """What one of its rows represents."""


class Settings(ExistingTable):
    """The choices of a deployment; `deploy/settings.toml` explains each."""

    region: str
    initials: str
    environment: Literal["poc", "production"] = "poc"
    architecture: Literal["arm64", "x86-64"] = "arm64"
    cpu: int = 256
    memory: int = 512
    tasks: Count = 3
    min_tasks: Count = 3
    max_tasks: Count = 12
    target_cpu: Annotated[int, Field(ge=10, le=90)] = 60
    target_in_flight: Annotated[int, Field(ge=1)] = 100
    network: Literal["private", "public"] = "public"
    zones: Annotated[int, Field(ge=2, le=3)] = 2
    vpc_id: Annotated[str, StringConstraints(pattern=r"^(vpc-[0-9a-f]{8,17})?$")] = ""
    subnet_ids: tuple[Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]{8,17}$")], ...] = ()
    ddb_key: str = _DEFAULTS["ddb_key"].default
    ddb_balance: str = _DEFAULTS["ddb_balance"].default
    spot: bool = True
    exec: bool = False
    alert_email: Annotated[str, StringConstraints(pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+)?$")] = ""
    dashboard: bool = False
    latency_p99_ms: Annotated[int, Field(ge=1)] = 100
    tracing_endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://[^\s/]+.*)?$")] = ""
    nats_url: str = _DEFAULTS["nats_url"].default
    seed_rows: int = _DEFAULTS["seed_rows"].default
    max_in_flight: int = _DEFAULTS["max_in_flight"].default
    shutdown_timeout: Annotated[int, Field(ge=1, le=STOP_TIMEOUT_MAX_S - DRAIN_MARGIN_S)] = int(
        _DEFAULTS["shutdown_timeout"].default
    )
    log_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365] = 30
    adjustments: AdjustmentsSection = AdjustmentsSection()
    queue: QueueSection = QueueSection()
    archive: ArchiveSection = ArchiveSection()
    devices: DevicesSection = DevicesSection()

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, given: dict[str, Any]) -> dict[str, Any]:
        not_ours = {"seed_rows": 0} if given.get("existing_table") else {}
        return {**(_PRODUCTION if given.get("environment") == "production" else {}), **not_ours, **given}

    @field_validator("region")
    @classmethod
    def _is_a_region(cls, value: str) -> str:
        partitions = Session().get_data("partitions")["partitions"]
        if not any(re.fullmatch(partition["regionRegex"], value) for partition in partitions):
            raise ValueError(f"AWS has no region {value!r}; give one like eu-west-1")
        return value

    @field_validator("nats_url", "ddb_key", "ddb_balance", "seed_rows", "max_in_flight")
    @classmethod
    def _as_the_service_takes_it(cls, value: Any, info: ValidationInfo) -> Any:
        return TypeAdapter(_DEFAULTS[str(info.field_name)].rebuild_annotation()).validate_python(value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_size(self.cpu, self.memory)
        if self.ddb_key == self.ddb_balance:
            raise ValueError(f"ddb_balance: {self.ddb_balance} is the name of the key, ddb_key")
        if self.max_tasks < self.min_tasks:
            raise ValueError(f"max_tasks: {self.max_tasks} is less than min_tasks, {self.min_tasks}")
        if not self.min_tasks <= self.tasks <= self.max_tasks:
            raise ValueError(f"tasks: {self.tasks} is not between min_tasks and max_tasks")
        if bool(self.vpc_id) != bool(self.subnet_ids):
            raise ValueError("vpc_id: it and subnet_ids are given together, or neither")
        if self.nats_url != self.nats_url.lower() or "@" in self.nats_url:
            raise ValueError("nats_url: no user and no password, and lower case; the credentials are in the secret")
        return self

    @model_validator(mode="after")
    def _reads_queues_of_its_region(self) -> Self:
        for name in ("queue", "archive"):
            reader: Reader = getattr(self, name)
            if reader.enabled and reader.queue_region not in {"", self.region}:
                raise ValueError(
                    f"{name}.queue: it is in {reader.queue_region}, the stack in {self.region}, whose alarms do not "
                    "see it; deploy to the queue's region"
                )
        return self

    @model_validator(mode="after")
    def _reads_secrets_of_its_region(self) -> Self:
        for arn in self.devices.secrets if self.devices.enabled else ():
            if (region := arn.split(":")[3]) != self.region:
                raise ValueError(f"devices: {arn} is in {region}, the stack in {self.region}; copy the secret there")
        return self

    @model_validator(mode="after")
    def _stops_within_the_notice(self) -> Self:
        one_after_the_other_s = self.queue.stop_timeout + self.stop_timeout
        if self.spot and self.queue.enabled and self.queue.tasks > 1 and one_after_the_other_s > STOP_TIMEOUT_MAX_S:
            raise ValueError(
                f"queue.stop_timeout: the containers stop one after the other, in {one_after_the_other_s} s, and Spot "
                f"gives them {STOP_TIMEOUT_MAX_S}; lower it or shutdown_timeout"
            )
        return self

    @property
    def makes_queues(self) -> bool:
        """True if the stack creates SQS queues."""
        readers: tuple[Reader, ...] = (self.queue, self.archive)
        return any(reader.enabled and reader.source == "sqs" and not reader.queue for reader in readers)

    @property
    def queue_architecture(self) -> str:
        """Architecture of the queue's task, so of the business container too."""
        return (self.queue.architecture if self.queue.enabled else "") or self.architecture

    @property
    def stop_timeout(self) -> int:
        """Seconds from SIGTERM to SIGKILL for the service's container."""
        return min(STOP_TIMEOUT_MAX_S, self.shutdown_timeout + DRAIN_MARGIN_S)

    @property
    def stack_name(self) -> str:
        return f"CustomerBalance-{self.initials}"

    @property
    def table_name(self) -> str:
        return self.existing_table or f"customer-balances-{self.initials}"

    @property
    def adjustments_table_name(self) -> str:
        return self.adjustments.existing_table or f"customer-adjustments-{self.initials}"

    @property
    def events_table_name(self) -> str:
        return self.archive.existing_table or f"customer-events-{self.initials}"

    @property
    def readings_table_name(self) -> str:
        return self.devices.existing_table or f"customer-readings-{self.initials}"

    @property
    def tables(self) -> tuple[Table, ...]:
        """Return the tables of the roles that are enabled."""
        own = Table(self.table_name, bool(self.existing_table), self.existing_table_key, "", "balance")
        named: tuple[tuple[bool, str, AdjustmentsSection | ArchiveSection | DevicesSection, str, str], ...] = (
            (True, self.adjustments_table_name, self.adjustments, "adjustments", "adjustment"),
            (self.archive.enabled, self.events_table_name, self.archive, "archive", "archived event"),
            (self.devices.enabled, self.readings_table_name, self.devices, "devices", "reading"),
        )
        return (
            own,
            *(
                Table(name, bool(given.existing_table), given.existing_table_key, section, row)
                for enabled, name, given, section, row in named
                if enabled
            ),
        )

    @property
    def nats_servers(self) -> list[str]:
        return [server.strip() for server in self.nats_url.split(",")]

    @property
    def egress_ports(self) -> tuple[int, ...]:
        """Ports to which the tasks connect: NATS, AWS's APIs and the collector of spans."""
        urls = [urlsplit(server) for server in self.nats_servers]
        ports = {url.port or _PORTS[url.scheme] for url in urls} | {HTTPS_PORT}
        if self.tracing_endpoint:
            collector = urlsplit(self.tracing_endpoint)
            ports.add(collector.port or (HTTPS_PORT if collector.scheme == "https" else 80))
        return tuple(sorted(ports))
