"""Names that the role `customer` shares with its clients, with dashboards and with the provisioning of NATS."""

from dataclasses import dataclass
from typing import Final

from service.contracts.requests import QUEUE_GROUP, discovery, schema
from service.contracts.stream import (
    ADJUSTED_PREFIX,
    ARCHIVE_CONSUMER,
    EVENT_PREFIX,
    QUEUE_CONSUMER,
    QUEUE_DEAD_STREAM,
    STREAM,
)

SERVICE_NAME: Final = "customer"
ENDPOINT_NAME: Final = "balance"
SUBJECT: Final = f"{SERVICE_NAME}.{ENDPOINT_NAME}"

GET_NAME: Final = "get"
GET_SUBJECT: Final = f"{SERVICE_NAME}.{GET_NAME}"
CREATE_NAME: Final = "create"
CREATE_SUBJECT: Final = f"{SERVICE_NAME}.{CREATE_NAME}"
ADJUST_NAME: Final = "adjust"
ADJUST_SUBJECT: Final = f"{SERVICE_NAME}.{ADJUST_NAME}"
STATEMENT_NAME: Final = "statement"
STATEMENT_SUBJECT: Final = f"{SERVICE_NAME}.{STATEMENT_NAME}"

REQUESTS: Final = (SUBJECT, GET_SUBJECT, CREATE_SUBJECT, ADJUST_SUBJECT, STATEMENT_SUBJECT)
"""Subjects on which the role takes requests."""

BUCKET: Final = "config"
SEED_KEY: Final = "seed"
SEED_DONE: Final = b"done"
SEED_LEASE_KEY: Final = "seed-lease"
"""Key in `BUCKET`, held by the one task that is seeding; deleted when the table is seeded."""

USER: Final = "service"
INBOX_PREFIX: Final = "_INBOX_service"
"""The role's own inbox prefix, so that no other user's permissions cover its acknowledgements."""

_KV: Final = f"KV_{BUCKET}"
_SEED_SUBJECTS: Final = tuple(f"$KV.{BUCKET}.{key}" for key in (SEED_KEY, SEED_LEASE_KEY))

FIGURES: Final = (
    *(f"$JS.API.CONSUMER.INFO.{STREAM}.{consumer}" for consumer in (ARCHIVE_CONSUMER, QUEUE_CONSUMER)),
    f"$JS.API.STREAM.MSG.GET.{STREAM}",
    f"$JS.API.STREAM.INFO.{QUEUE_DEAD_STREAM}",
)
"""Permissions for figures about other roles only: a task without them serves, and omits those figures."""

NEEDED: Final = (
    "_INBOX.>",
    f"{EVENT_PREFIX}*",
    *_SEED_SUBJECTS,
    *(f"$JS.API.DIRECT.GET.{_KV}.{subject}" for subject in _SEED_SUBJECTS),
    f"$JS.API.STREAM.MSG.GET.{_KV}",
    f"$JS.API.STREAM.INFO.{_KV}",
    f"$JS.API.STREAM.INFO.{STREAM}",
    "$SYS.REQ.USER.INFO",  # its own permissions
)

NEEDED_TO_ADJUST: Final = (f"{ADJUSTED_PREFIX}*",)
"""What a task with a table of adjustments needs in addition."""

PUBLISH: Final = (*NEEDED, *NEEDED_TO_ADJUST, *FIGURES)
"""Publish permissions of the role's NATS user, in addition to one response to each request."""

SUBSCRIBED: Final = (
    *(f"{subject} {QUEUE_GROUP}" for subject in (SUBJECT, GET_SUBJECT, CREATE_SUBJECT)),
    *discovery(SERVICE_NAME),
    f"{INBOX_PREFIX}.>",
)
"""What every task subscribes to."""

SUBSCRIBED_TO_ADJUST: Final = tuple(f"{subject} {QUEUE_GROUP}" for subject in (ADJUST_SUBJECT, STATEMENT_SUBJECT))
"""What a task with a table of adjustments subscribes to in addition."""

SUBSCRIBE: Final = (*SUBSCRIBED, *SUBSCRIBED_TO_ADJUST)
"""Subscribe permissions of the role's NATS user; `subject queue` allows that queue group only."""

KEY_ATTRIBUTE: Final = "id"
BALANCE_ATTRIBUTE: Final = "client_balance"
NAME_ATTRIBUTE: Final = "name"
CREATED_AT_ATTRIBUTE: Final = "created_at"
COUNT_ATTRIBUTE: Final = "adjustments"
"""Number of a client's adjustments, in the row of the balance; absent before the first."""


@dataclass(frozen=True)
class Attributes:
    """Names of a client's key and balance in the table: an existing table may use others."""

    key: str = KEY_ATTRIBUTE
    balance: str = BALANCE_ATTRIBUTE


ATTRIBUTES: Final = Attributes()
"""The default names."""
OTHER_ATTRIBUTES: Final = (NAME_ATTRIBUTE, CREATED_AT_ATTRIBUTE, COUNT_ATTRIBUTE)
"""Attributes of the same row, whose names are fixed."""

ADJUSTMENTS_PARTITION_KEY: Final = "client_id"
ADJUSTMENTS_SORT_KEY: Final = "adjustment_id"
ADJUSTMENTS_INDEX: Final = "by_sequence"
"""A local secondary index, because a global one cannot be read consistently. It projects all attributes."""
ADJUSTMENTS_INDEX_KEY: Final = "sequence"
"""The number of an adjustment among its client's, starting at 1."""

_WHITE: Final = r"\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
"""White space as in JSON Schema's patterns (ECMA-262), which differs from Python's."""
_CONTROL: Final = r"\u0000-\u001f\u007f-\u009f"

CLIENT_ID_MAX: Final = 128
CLIENT_ID_CHARACTER: Final = f"[^{_WHITE}{_CONTROL}.*>]"
"""Pattern of each character of a client's id, which is one token of a NATS subject."""

NAME_MAX: Final = 256
"""Maximum characters of a client's name, after trimming."""
NAME_PATTERN: Final = (
    f"^[{_WHITE}]*([^{_WHITE}{_CONTROL}]([^{_CONTROL}]{{0,{NAME_MAX - 2}}}[^{_WHITE}{_CONTROL}])?)[{_WHITE}]*$"
)
"""Pattern of a name, with optional white space around it."""
DATE_TIME_PATTERN: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?([Zz]|[+-][0-9]{2}:[0-9]{2})?$"
)
"""RFC 3339 with optional seconds and offset: https://www.rfc-editor.org/rfc/rfc3339#section-5.6"""

ADJUSTMENT_ID_MAX: Final = 128
REASON_MAX: Final = 200
POINTS_MAX: Final = 10**12
"""Of one adjustment, in either direction."""
PAGE_MAX: Final = 100
PAGE_DEFAULT: Final = 50
"""Adjustments per page of a statement."""
CURSOR_MAX: Final = 10**15

_CLIENT_ID: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": CLIENT_ID_MAX,
    "pattern": f"^{CLIENT_ID_CHARACTER}+$",
}
_NAME: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": NAME_MAX,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
}
_CREATED_AT: Final = {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}
_NAME_GIVEN: Final = {"type": "string", "pattern": NAME_PATTERN}
_CREATED_AT_GIVEN: Final = {
    "type": ["string", "null"],
    "anyOf": [{"type": "null"}, {"format": "date"}, {"format": "date-time"}, {"pattern": DATE_TIME_PATTERN}],
}

_BALANCE: Final = {"type": "integer"}

REQUEST_SCHEMA: Final = schema("client_id", client_id=_CLIENT_ID)
RESPONSE_SCHEMA: Final = schema("balance", balance=_BALANCE)
GET_REQUEST_SCHEMA: Final = schema("client_id", client_id=_CLIENT_ID, consistent={"type": "boolean", "default": False})
GET_RESPONSE_SCHEMA: Final = schema(
    "client_id", "balance", client_id=_CLIENT_ID, name=_NAME, created_at=_CREATED_AT, balance=_BALANCE
)
CREATE_REQUEST_SCHEMA: Final = schema("name", client_id=_CLIENT_ID, name=_NAME_GIVEN, created_at=_CREATED_AT_GIVEN)
CREATE_RESPONSE_SCHEMA: Final = schema("client_id", client_id=_CLIENT_ID)
_POINTS: Final = {"type": "integer", "minimum": -POINTS_MAX, "maximum": POINTS_MAX, "not": {"const": 0}}
_ADJUSTMENT_ID: Final = {"type": "string", "minLength": 1, "maxLength": ADJUSTMENT_ID_MAX}
_REASON: Final = {"type": "string", "maxLength": REASON_MAX}
_ADJUSTED: Final = {"adjustment_id": _ADJUSTMENT_ID, "points": _POINTS, "balance": _BALANCE}

ADJUST_REQUEST_SCHEMA: Final = schema(
    "client_id",
    "adjustment_id",
    "points",
    client_id=_CLIENT_ID,
    adjustment_id=_ADJUSTMENT_ID,
    points=_POINTS,
    reason={**_REASON, "type": ["string", "null"]},
)
ADJUST_RESPONSE_SCHEMA: Final = schema("client_id", *_ADJUSTED, client_id=_CLIENT_ID, **_ADJUSTED)
_CURSOR: Final = {"type": "integer", "minimum": 1, "maximum": CURSOR_MAX}
STATEMENT_REQUEST_SCHEMA: Final = schema(
    "client_id",
    client_id=_CLIENT_ID,
    limit={"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT},
    before=_CURSOR,
)
_ENTRY: Final = {
    "type": "object",
    "required": [*_ADJUSTED, "at"],
    "properties": {**_ADJUSTED, "reason": _REASON, "at": {"type": "string", "format": "date-time"}},
}
STATEMENT_RESPONSE_SCHEMA: Final = schema(
    "client_id", "adjustments", client_id=_CLIENT_ID, adjustments={"type": "array", "items": _ENTRY}, before=_CURSOR
)
