"""Settings of the role `queue`, from its environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from service.contracts import queue as contract
from service.grpc.address import Address, check_listen
from service.grpc.settings import Certificate, ClientCa, Key, SocketMode
from service.nats.settings import NatsSettings
from service.sources.settings import ConsumerName, SourceName


class QueueSettings(NatsSettings):
    queue: SourceName
    queue_consumer: ConsumerName = contract.CONSUMER
    queue_listen: Annotated[
        str,
        AfterValidator(check_listen),
        Field(description="HOST:PORT or unix:PATH; beyond loopback only with certificates"),
    ] = contract.LISTEN
    queue_socket_mode: SocketMode = "0600"
    queue_max_deliver: Annotated[
        int, Field(ge=1, le=1000, description="deliveries of a stream's message before it is a dead letter")
    ] = 10
    queue_certificate: Certificate = ""
    queue_key: Key = ""
    queue_client_ca: ClientCa = ""

    @property
    def address(self) -> Address:
        return Address(
            "QUEUE", self.queue_listen, self.queue_socket_mode, self.queue_certificate, self.queue_key,
            self.queue_client_ca,
        )  # fmt: skip
