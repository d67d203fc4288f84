"""Classify a failed call: may its transaction succeed later, may it have been executed, and what is the reply?"""

from __future__ import annotations

from typing import Final

from service.customer.store.rows import refusal
from service.dynamodb.errors import CredentialsRefreshError, DynamoDBError, classify
from service.requests.errors import RequestError, Unavailable
from service.runtime.errors import ServiceError

CANCELLED: Final = "TransactionCanceledException"
PASSES: Final = frozenset({
    "None", "ConditionalCheckFailed", "TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError",
})  # fmt: skip
"""Reasons for which a cancelled transaction may succeed when it is decided again."""
_CONFLICTS: Final = frozenset({"ConditionalCheckFailed", "TransactionConflict"})


def is_cancelled(error: Exception) -> bool:
    return isinstance(error, DynamoDBError) and error.code == CANCELLED


def is_conflict(error: Exception) -> bool:
    """Return whether another writer was faster."""
    return isinstance(error, DynamoDBError) and not _CONFLICTS.isdisjoint(error.reasons)


def passes(error: Exception) -> bool:
    """Return whether a cancelled transaction may succeed when it is decided again."""
    return isinstance(error, DynamoDBError) and set(error.reasons) <= PASSES


def may_be_executed(error: Exception) -> bool:
    """Return whether the transaction of a failed call may have been executed, or still may be."""
    if isinstance(error, DynamoDBError):
        return error.status >= 500 or error.code == "TransactionInProgressException"
    return not isinstance(error, CredentialsRefreshError | ServiceError)


def reply_to(client_id: str, error: Exception) -> RequestError:
    """Return the reply to an adjustment that was not executed."""
    if isinstance(error, RequestError):
        return error
    if is_cancelled(error) and passes(error):
        return Unavailable("other adjustments of this client came first; try again")
    return refusal(client_id, classify(error))
