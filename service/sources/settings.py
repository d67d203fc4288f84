"""Settings of each role that reads a stream or a queue."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

SourceName = Annotated[
    str,
    StringConstraints(pattern=r"^(jetstream:[^\s.*>/\\]+|sqs:\S+)$"),
    Field(description="jetstream:STREAM, or sqs:QUEUE (a name or a URL)", examples=["jetstream:customer-balances"]),
]
ConsumerName = Annotated[
    str, StringConstraints(pattern=r"^[^\s.*>/\\]+$"), Field(description="durable pull consumer of the stream")
]
