"""Explain why a table cannot be used, and what to do about it."""

from __future__ import annotations

from service.dynamodb.errors import (
    CredentialsRefreshError,
    DynamoDBError,
    HttpError,
    InvalidResponse,
    NoCredentialsError,
    TableUnavailableError,
    reason,
)
from service.runtime.errors import ServiceError


def explain(error: Exception, table: str, variable: str, otherwise: str) -> ServiceError:
    """Return the error that ends a process whose table failed with `error`.

    `variable` is the environment variable with the table's name; `otherwise` is the remedy if no rule here applies.
    """
    cause = (isinstance(error, TableUnavailableError) and error.__cause__) or error
    why = reason(error)
    if isinstance(cause, ServiceError):
        return cause
    if isinstance(cause, DynamoDBError) and cause.code == "ResourceNotFoundException":
        return ServiceError(f"table {table} does not exist", f"deploy the stack, or correct {variable}")
    if isinstance(cause, NoCredentialsError) or (isinstance(cause, DynamoDBError) and cause.access_denied):
        return ServiceError(
            f"AWS refuses to let this task use table {table} ({why})",
            "give it credentials that may (aws sts get-caller-identity shows whose it has)",
        )
    if isinstance(cause, CredentialsRefreshError):
        remedy = "see the task role, and what gives its credentials"
    elif isinstance(cause, HttpError):
        remedy = cause.remedy
    elif isinstance(cause, DynamoDBError) and cause.retryable:
        remedy = "see the table's throttles and the state of AWS"
    elif isinstance(cause, InvalidResponse | TimeoutError | TableUnavailableError):
        remedy = "see that DynamoDB can be reached from here"
    else:
        remedy = otherwise
    return ServiceError(f"table {table}: {why}", remedy)
