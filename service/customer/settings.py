"""Settings of the role `customer`, from environment variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from service.contracts import customer as contract
from service.nats.settings import NatsSettings
from service.runtime.settings import TableName


def _is_free(name: str) -> str:
    if name in contract.OTHER_ATTRIBUTES:
        raise ValueError(f"{name} is another attribute of a client")
    return name


AttributeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:/#$@ -]{1,255}$"), AfterValidator(_is_free)]
"""Up to 255 bytes, DynamoDB's limit for a key's name. No quotes or dots: they have a meaning in PartiQL."""


class CustomerSettings(NatsSettings):
    ddb_table: Annotated[TableName, Field(description="table of the balances", examples=["balances"])]
    ddb_key: Annotated[AttributeName, Field(description="its partition key, a string")] = contract.KEY_ATTRIBUTE
    ddb_balance: Annotated[
        AttributeName, Field(description="its attribute with the balance, an integer", validate_default=True)
    ] = contract.BALANCE_ATTRIBUTE
    adjustments_table: Annotated[
        TableName | None,
        Field(description="table of the adjustments; not set: customer.adjust and customer.statement are not served"),
    ] = None
    seed_rows: Annotated[int, Field(ge=0, le=1_000_000, description="rows to seed, once; 0: none")] = 1000
    max_in_flight: Annotated[
        int, Field(ge=1, le=1_000_000, description="most requests worked on at a time; more go to other tasks")
    ] = 2048

    @field_validator("ddb_balance")
    @classmethod
    def _is_not_the_key(cls, name: str, info: ValidationInfo) -> str:
        if name == info.data.get("ddb_key"):
            raise ValueError("it is the name of the key, DDB_KEY")
        return name

    @property
    def attributes(self) -> contract.Attributes:
        return contract.Attributes(self.ddb_key, self.ddb_balance)
