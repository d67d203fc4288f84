"""Settings of the role `devices`, from its environment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from service.contracts import devices as contract
from service.grpc.address import Address, check_listen
from service.nats.settings import NatsSettings


class DevicesSettings(NatsSettings):
    devices_table: Annotated[
        str,
        StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{3,255}$"),
        Field(description="table of the readings", examples=["readings"]),
    ]
    facility: Annotated[
        str,
        StringConstraints(max_length=128),
        Field(description="name or number of this facility, in each row"),
    ] = ""
    devices_listen: Annotated[
        str,
        AfterValidator(check_listen),
        Field(description="HOST:PORT or unix:PATH of the gRPC API; beyond loopback only with mutual TLS"),
    ] = contract.LISTEN
    devices_socket_mode: Annotated[
        str,
        StringConstraints(pattern=r"^0?[0-7]{3}$"),
        Field(description="octal mode of a Unix socket; write permission lets a user connect"),
    ] = "0600"
    devices_certificate: Annotated[
        str, Field(description="file of the server's certificate chain, or its text (PEM); TLS")
    ] = ""
    devices_key: Annotated[str, Field(description="file of its private key, or its text (PEM)", repr=False)] = ""
    devices_client_ca: Annotated[
        str, Field(description="file of the CA of client certificates, or its text (PEM); mutual TLS")
    ] = ""
    device_silence: Annotated[
        int,
        Field(
            ge=0,
            le=30 * 86_400,
            description="seconds without a message after which a device counts as gone, for devices that name none; "
            "0: never",
        ),
    ] = 0
    pulse: Annotated[
        float,
        Field(ge=0, le=86_400, description="seconds between requests for readings, on the topic pulse; 0: none"),
    ] = 0
    retention_days: Annotated[
        int, Field(ge=0, le=36_500, description="days after which a row expires (attribute expires_at); 0: never")
    ] = 0
    outage_webhook: Annotated[
        SecretStr | None, Field(description="URL that outages are posted to; not set: they stay in the stream")
    ] = None
    outage_window: Annotated[float, Field(ge=0, le=3600, description="seconds of outages and returns in one post")] = (
        5.0
    )
    outage_form: Annotated[
        Literal["json", "groupme", "slack"], Field(description="form of a post: json, groupme or slack")
    ] = "json"
    outage_bot_id: Annotated[SecretStr | None, Field(description="bot of a post to GroupMe; kept in memory")] = None

    @property
    def address(self) -> Address:
        return Address(
            "DEVICES", self.devices_listen, self.devices_socket_mode, self.devices_certificate, self.devices_key,
            self.devices_client_ca, mutual=True,
        )  # fmt: skip
