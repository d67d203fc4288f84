"""The errors of the DynamoDB client.

HttpError               no connection, a lost one, or a reply that is not HTTP
InvalidResponse         a reply that is not DynamoDB's
NoCredentialsError      the AWS credential chain has none
CredentialsRefreshError its credentials have expired, and it gives no new ones now
DynamoDBError           DynamoDB refused the call
TableUnavailableError   the table raises this for the transient ones of the above, after its own retries
"""

from __future__ import annotations

from typing import Final

_THROTTLED: Final = {"ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException"}
_ACCESS_DENIED: Final = {
    "AccessDeniedException",
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
}


class HttpError(Exception):
    """There is no connection, it was lost, or what came was not HTTP."""


class InvalidResponse(Exception):
    """A response that is not DynamoDB's."""


class NoCredentialsError(Exception):
    """botocore's chain has none."""


class CredentialsRefreshError(Exception):
    """The credentials have expired, and the chain does not give new ones now. The next call may succeed."""


class TableUnavailableError(Exception):
    """The table did not answer within its deadline, or is throttled. The next call may succeed."""


class DynamoDBError(Exception):
    """DynamoDB refused a call: `code` is the last part of its `__type`.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.status = status
        self.code = code

    @property
    def throttled(self) -> bool:
        return self.code in _THROTTLED

    @property
    def retryable(self) -> bool:
        """The next call may succeed."""
        return self.throttled or self.status >= 500 or self.code in {"ExpiredTokenException", "HTTP 413"}

    @property
    def access_denied(self) -> bool:
        return self.code in _ACCESS_DENIED


def kind(error: BaseException | None) -> str:
    """What an error is counted by: DynamoDB's own code, else the name of its class."""
    return error.code if isinstance(error, DynamoDBError) else type(error).__name__
