"""What the role `queue` is told by its environment."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field, StringConstraints

from service.queue import contract
from service.runtime.settings import NatsSettings


class QueueSettings(NatsSettings):
    queue: Annotated[
        str,
        StringConstraints(pattern=r"^(jetstream:[^\s.*>/\\]+|sqs:\S+)$"),
        Field(description="jetstream:STREAM, or sqs:QUEUE (a name or a URL)", examples=["jetstream:customer-balances"]),
    ]
    queue_consumer: Annotated[
        str, StringConstraints(pattern=r"^[^\s.*>/\\]+$"), Field(description="durable pull consumer of the stream")
    ] = contract.CONSUMER
    queue_listen: Annotated[
        str,
        StringConstraints(pattern=r"^(unix:\S+|[^\s/]+:\d{1,5})$"),
        Field(description="HOST:PORT or unix:PATH; beyond loopback only with certificates"),
    ] = contract.LISTEN
    queue_max_deliver: Annotated[
        int, Field(ge=1, le=1000, description="deliveries of a stream's message before it is a dead letter")
    ] = 10
    queue_certificate: Annotated[str, Field(description="file of the server's certificate chain (PEM); TLS")] = ""
    queue_key: Annotated[str, Field(description="file of its private key (PEM)")] = ""
    queue_client_ca: Annotated[str, Field(description="file of the CA of client certificates (PEM); mutual TLS")] = ""

    @property
    def is_local(self) -> bool:
        """Whether it listens where nobody but this machine's programs can reach it."""
        if self.queue_listen.startswith("unix:"):
            return True
        host = self.queue_listen.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"
