"""Settings of the role `devices`, from its environment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from service.contracts import devices as contract
from service.grpc.address import Address, check_listen
from service.grpc.settings import Certificate, ClientCa, Key, SocketMode
from service.nats.settings import NatsSettings
from service.runtime.settings import RetentionDays, TableName


class DevicesSettings(NatsSettings):
    devices_table: Annotated[TableName, Field(description="table of the readings", examples=["readings"])]
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
    devices_socket_mode: SocketMode = "0600"
    devices_certificate: Certificate = ""
    devices_key: Key = ""
    devices_client_ca: ClientCa = ""
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
    retention_days: RetentionDays = 0
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
