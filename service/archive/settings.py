"""Settings of the role `archive`, from its environment."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, StringConstraints

from service.contracts import archive as contract
from service.nats.settings import NatsSettings


class ArchiveSettings(NatsSettings):
    archive_source: Annotated[
        str,
        StringConstraints(pattern=r"^(jetstream:[^\s.*>/\\]+|sqs:\S+)$"),
        Field(description="jetstream:STREAM, or sqs:QUEUE (a name or a URL)", examples=["jetstream:customer-balances"]),
    ]
    archive_table: Annotated[
        str,
        StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{3,255}$"),
        Field(description="table of the events", examples=["events"]),
    ]
    archive_consumer: Annotated[
        str, StringConstraints(pattern=r"^[^\s.*>/\\]+$"), Field(description="durable pull consumer of the stream")
    ] = contract.CONSUMER
    idle_exit: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            description="seconds with backlog 0 and nothing received before it exits with 0; 0: never",
        ),
    ] = 60.0
    retention_days: Annotated[
        int, Field(ge=0, le=36_500, description="days after which a row expires (attribute expires_at); 0: never")
    ] = 0

    @property
    def source_shown(self) -> str:
        """The source without user and password of a queue's URL, for logs and messages."""
        return re.sub(r"//.*@", "//", self.archive_source)
