"""Turn a failed table call into a reply: the cause is logged, and the requester does not see it."""

from __future__ import annotations

from typing import Any

from service.dynamodb.errors import DynamoDBError, NoCredentialsError, TableUnavailableError, kind, reason
from service.requests.errors import InternalError, RequestError, Unavailable
from service.runtime.logs import Repeated


class Failures:
    """Failures of one kind of work; each kind of error is logged at most once a minute."""

    def __init__(self, log: Any, event: str) -> None:
        """`event` is the log message for a failure that does not go away by itself."""
        self.failed = Repeated(log, event)
        self._unavailable = Repeated(log, "the table is not available")

    def refusal(self, error: Exception, **about: Any) -> RequestError:
        """Return the reply for a failed call; `about` holds log fields that say what it was for."""
        if isinstance(error, TableUnavailableError):
            self._unavailable.warning(kind(error.__cause__ or error), error=reason(error))
            return Unavailable(f"{error}; try again")
        if isinstance(error, TimeoutError):
            return Unavailable("the database did not answer in time; try again")
        if isinstance(error, DynamoDBError | NoCredentialsError):
            self.failed.error(kind(error), **about, error=str(error) or kind(error))
        else:
            self.failed.error(kind(error), **about, exc_info=error)
        return InternalError("internal error")
