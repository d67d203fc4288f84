"""Settings of the role `queue`, from its environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from service.contracts import queue as contract
from service.grpc.address import Address, check_listen
from service.nats.settings import NatsSettings


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
        AfterValidator(check_listen),
        Field(description="HOST:PORT or unix:PATH; beyond loopback only with certificates"),
    ] = contract.LISTEN
    queue_socket_mode: Annotated[
        str,
        StringConstraints(pattern=r"^0?[0-7]{3}$"),
        Field(description="octal mode of a Unix socket; write permission lets a user connect"),
    ] = "0600"
    queue_max_deliver: Annotated[
        int, Field(ge=1, le=1000, description="deliveries of a stream's message before it is a dead letter")
    ] = 10
    queue_certificate: Annotated[
        str, Field(description="file of the server's certificate chain, or its text (PEM); TLS")
    ] = ""
    queue_key: Annotated[str, Field(description="file of its private key, or its text (PEM)", repr=False)] = ""
    queue_client_ca: Annotated[
        str, Field(description="file of the CA of client certificates, or its text (PEM); mutual TLS")
    ] = ""

    @property
    def address(self) -> Address:
        return Address(
            "QUEUE", self.queue_listen, self.queue_socket_mode, self.queue_certificate, self.queue_key,
            self.queue_client_ca,
        )  # fmt: skip
