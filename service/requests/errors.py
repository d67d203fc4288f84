"""Errors that become error replies.

RequestError
  BadRequest            403
  NotFound              404
  Conflict              409
  InsufficientBalance   409
  Unavailable           503
  InternalError         500
"""

from __future__ import annotations

from typing import ClassVar, Final

import orjson


class RequestError(Exception):
    """An error reply: ADR-32 code and description in the headers, `{"error": message}` in the body."""

    code: ClassVar[str] = "500"
    description: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def body(self) -> bytes:
        return orjson.dumps({"error": self.message})


class BadRequest(RequestError):
    """The request is not valid; 403 is what existing clients of this API check for."""

    code = "403"
    description = "BAD_REQUEST"


class NotFound(RequestError):
    """Nothing has that id."""

    code = "404"
    description = "NOT_FOUND"


class Conflict(RequestError):
    """A client or an adjustment with that id exists, with other content."""

    code = "409"
    description = "CONFLICT"


class InsufficientBalance(RequestError):
    """The balance would go below 0."""

    code = "409"
    description = "INSUFFICIENT_BALANCE"


class Unavailable(RequestError):
    """DynamoDB, or NATS, did not answer within the deadline."""

    code = "503"
    description = "UNAVAILABLE"


class InternalError(RequestError):
    """Anything else; the cause is in the log, never in the reply."""


ERRORS: Final[tuple[type[RequestError], ...]] = (
    BadRequest, NotFound, Conflict, InsufficientBalance, Unavailable, InternalError,
)  # fmt: skip
"""Every error reply. Metrics, statistics and alarms derive from this."""
