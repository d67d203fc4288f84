"""Settings of the role `customer`, from environment variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from service.nats.settings import NatsSettings


class CustomerSettings(NatsSettings):
    ddb_table: Annotated[
        str,
        StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{3,255}$"),
        Field(description="table of the balances", examples=["balances"]),
    ]
    adjustments_table: Annotated[
        str | None,
        StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{3,255}$"),
        Field(description="table of the adjustments; not set: customer.adjust and customer.statement are not served"),
    ] = None
    seed_rows: Annotated[int, Field(ge=0, le=1_000_000, description="rows to seed, once; 0: none")] = 1000
    max_in_flight: Annotated[
        int, Field(ge=1, le=1_000_000, description="most requests worked on at a time; more go to other tasks")
    ] = 2048
