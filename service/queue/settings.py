"""What the role `queue` is told by its environment."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints

from service.contracts import queue as contract
from service.nats.settings import NatsSettings

UNIX_PATH_BYTES: Final = 107
"""Linux' bound."""


def _listen(value: str) -> str:
    if value.startswith("unix:"):
        path = socket_path(value)
        if not path or path.endswith("/"):
            raise ValueError("must name a file behind unix:")
        if len(os.fsencode(path)) > UNIX_PATH_BYTES:
            raise ValueError(f"must have a path of at most {UNIX_PATH_BYTES} bytes behind unix:")
        return value
    host, _, port = value.rpartition(":")
    if not host or set(host) & set("/ \t\n") or (":" in host and not re.fullmatch(r"\[[^\[\]]+\]", host)):
        raise ValueError("must be HOST:PORT, [IPv6]:PORT or unix:PATH")
    if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ValueError("must have a port of 0 to 65535")
    return value


def socket_path(listen: str) -> str:
    """The file that `unix:PATH` or `unix://PATH` names."""
    return listen.removeprefix("unix:").removeprefix("//")


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
        AfterValidator(_listen),
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
