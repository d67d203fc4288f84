"""Settings of the role `archive`, from its environment."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from service.contracts import archive as contract
from service.nats.settings import NatsSettings
from service.runtime.settings import RetentionDays, TableName
from service.sources.settings import ConsumerName, SourceName


class ArchiveSettings(NatsSettings):
    archive_source: SourceName
    archive_table: Annotated[TableName, Field(description="table of the events", examples=["events"])]
    archive_consumer: ConsumerName = contract.CONSUMER
    idle_exit: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="seconds with backlog 0 and nothing received before it exits with 0; 0: never",
        ),
    ] = 60.0
    retention_days: RetentionDays = 0

    @property
    def source_shown(self) -> str:
        """The source without user and password of a queue's URL, for logs and messages."""
        return re.sub(r"//.*@", "//", self.archive_source)
