"""Options shared by several commands."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from service.contracts import customer as contract
from service.customer.settings import AttributeName

Key = Annotated[
    str, typer.Option(envvar="DDB_KEY", help="The table's partition key.", show_default=contract.KEY_ATTRIBUTE)
]
Balance = Annotated[
    str, typer.Option(envvar="DDB_BALANCE", help="Its balance attribute.", show_default=contract.BALANCE_ATTRIBUTE)
]


def attributes_of(key: str, balance: str) -> contract.Attributes:
    """Return the attribute names, checked by the rules of the service's settings. Raises `typer.BadParameter`."""
    found = contract.Attributes(key or contract.KEY_ATTRIBUTE, balance or contract.BALANCE_ATTRIBUTE)
    for option, name in (("--key", found.key), ("--balance", found.balance)):
        try:
            TypeAdapter(AttributeName).validate_python(name)
        except ValidationError as error:
            rule = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise typer.BadParameter(rule, param_hint=option) from None
    if found.key == found.balance:
        raise typer.BadParameter("it is the name of the key", param_hint="--balance")
    return found
