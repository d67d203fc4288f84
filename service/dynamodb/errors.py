"""The errors of the DynamoDB client.

HttpError               no connection, a lost one, or a response that is not HTTP
InvalidResponse         a response that DynamoDB did not send, or that was damaged on the way
NoCredentialsError      the AWS credential chain has none
CredentialsRefreshError the chain gives none at the moment
DynamoDBError           DynamoDB refused the call
TableUnavailableError   a transient one of the above, after the table's own retries
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from service.runtime.errors import ServiceError

_THROTTLED: Final = {
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "HTTP 429",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
}
"""The codes that botocore's standard retry mode treats as throttling."""
_TRANSIENT: Final = {
    "HTTP 413",
    "ItemCollectionSizeLimitExceededException",
    "ReplicatedWriteConflictException",
    "RequestTimeout",
    "RequestTimeoutException",
    "TransactionConflictException",
}
"""Other codes to retry, from botocore's retry modes and from the page that `DynamoDBError` names."""
STALE_CREDENTIALS: Final = {"ExpiredTokenException", "UnrecognizedClientException"}
"""Retry these: new credentials may be available, or a role just created may have become known everywhere.

https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_general.html#troubleshoot_general_eventual-consistency
"""
_ACCESS_DENIED: Final = STALE_CREDENTIALS | {
    "AccessDeniedException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
}


class HttpError(Exception):
    """No connection, a lost one, or a response that is not HTTP."""

    def __init__(self, problem: str, remedy: str = "see that DynamoDB can be reached from here") -> None:
        super().__init__(problem)
        self.remedy = remedy


class InvalidResponse(Exception):
    """A response that DynamoDB did not send, or whose checksum does not match its body."""


class NoCredentialsError(Exception):
    """botocore's credential chain has none."""


class CredentialsRefreshError(Exception):
    """The chain gives no credentials at the moment. The next call may succeed."""


class TableUnavailableError(Exception):
    """The table did not answer within its deadline, or is throttled. The next call may succeed.

    Its message is for requesters; `__cause__` is for operators.
    """


class DynamoDBError(Exception):
    """DynamoDB refused a call: `code` is the last part of its `__type`.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
    """

    def __init__(self, status: int, code: str, message: str, reasons: Sequence[str] = ()) -> None:
        """`reasons`: why a transaction was cancelled, one code per item."""
        super().__init__(f"{code}: {message}" if message else code)
        self.status = status
        self.code = code
        self.reasons = reasons

    @property
    def throttled(self) -> bool:
        return self.code in _THROTTLED or self.status == 429

    @property
    def retryable(self) -> bool:
        """True if the next call may succeed."""
        return self.throttled or self.status >= 500 or self.code in _TRANSIENT or self.code in STALE_CREDENTIALS

    @property
    def access_denied(self) -> bool:
        return self.code in _ACCESS_DENIED


def is_retryable(error: Exception) -> bool:
    """Return whether the next call may succeed."""
    if isinstance(error, DynamoDBError):
        return error.retryable
    # A ServiceError means that refreshed credentials do not fit the endpoint; the next ones may.
    return isinstance(error, HttpError | InvalidResponse | TimeoutError | CredentialsRefreshError | ServiceError)


def classify(error: Exception) -> Exception:
    """Return a transient error as the cause of a `TableUnavailableError` worded for requesters, others unchanged."""
    if not is_retryable(error):
        return error
    if isinstance(error, DynamoDBError) and error.throttled:
        said = "the database is busy"
    else:
        said = f"the database {'did not answer in time' if isinstance(error, TimeoutError) else 'is not available'}"
    unavailable = TableUnavailableError(said)
    unavailable.__cause__ = error
    return unavailable


def kind(error: BaseException | None) -> str:
    """Return the name to count an error by: DynamoDB's code, else its class."""
    return error.code if isinstance(error, DynamoDBError) else type(error).__name__


def reason(error: BaseException) -> str:
    """Return why a call failed, in one line for operators."""
    cause = (isinstance(error, TableUnavailableError) and error.__cause__) or error
    if isinstance(cause, DynamoDBError) and cause.throttled:
        return f"the database is busy ({cause.code})"
    return str(cause) or type(cause).__name__
