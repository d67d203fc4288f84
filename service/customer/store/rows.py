"""A client's row in the table, and what a look-up's outcome means for the reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from service.contracts import customer as contract
from service.dynamodb.table import Outcome, Row
from service.requests.errors import InternalError, NotFound, RequestError
from service.requests.failures import Failures

_failures: Final = Failures(structlog.get_logger("service.customer"), "look-up failed")


def make_row(
    client_id: str, balance: int, texts: Mapping[str, str] | None = None,
    attributes: contract.Attributes = contract.ATTRIBUTES,
) -> Row:  # fmt: skip
    """Return a client's row; `texts` are further string attributes, by name."""
    return {
        attributes.key: {"S": client_id},
        attributes.balance: {"N": str(balance)},
        **{name: {"S": text} for name, text in (texts or {}).items()},
    }


def balance_of(client_id: str, row: Row, attribute: str = contract.BALANCE_ATTRIBUTE) -> int:
    """Return the balance. Raise `InternalError` for a row without an integer balance."""
    return _integer(client_id, row, attribute)


def count_of(client_id: str, row: Row) -> int:
    """Return the number of adjustments made. Raise `InternalError` if it is not an integer."""
    return _integer(client_id, row, contract.COUNT_ATTRIBUTE) if contract.COUNT_ATTRIBUTE in row else 0


def _integer(client_id: str, row: Row, attribute: str) -> int:
    try:
        return int(row[attribute]["N"])
    except Exception as error:  # a row may hold anything
        _failures.failed.error("row", client_id=client_id, error=f"the row has no integer {attribute}")
        raise InternalError("internal error") from error


def text_of(row: Row, attribute: str) -> str | None:
    """Return a string attribute; None if the row has none of that name."""
    value = row.get(attribute)
    text = value.get("S") if isinstance(value, dict) else None
    return text if isinstance(text, str) else None


def row_of(client_id: str, outcome: Outcome) -> Row:
    """Return the row that a look-up found. For any other outcome, raise the `RequestError` to reply with."""
    if outcome is None:
        raise NotFound("no such client")
    if isinstance(outcome, Exception):
        raise refusal(client_id, outcome)
    return outcome


def refusal(client_id: str, error: Exception) -> RequestError:
    """Return the reply for a failed table call. The cause is logged; the requester does not see it."""
    return _failures.refusal(error, client_id=client_id)
