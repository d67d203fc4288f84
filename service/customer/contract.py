"""The names this role shares with its clients, with dashboards, and with whoever provisions NATS for it."""

from typing import Final

SERVICE_NAME: Final = "customer"
ENDPOINT_NAME: Final = "balance"
SUBJECT: Final = f"{SERVICE_NAME}.{ENDPOINT_NAME}"
QUEUE_GROUP: Final = "q"

EVENT_PREFIX: Final = f"{SUBJECT}."
"""An event's subject is this and the client's id, one token."""

STREAM: Final = "customer-balances"
STREAM_SUBJECTS: Final = (f"{EVENT_PREFIX}>",)

BUCKET: Final = "config"
SEED_KEY: Final = "seed"
SEED_DONE: Final = b"done"
SEED_LEASE_KEY: Final = "seed-lease"
"""Held in `BUCKET` by the one task that is seeding; gone when the table is seeded."""

USER: Final = "service"
INBOX_PREFIX: Final = "_INBOX_service"
"""The role's own inboxes, so that no other user's permissions reach its acknowledgements."""

_KV: Final = f"KV_{BUCKET}"
_SEED_SUBJECTS: Final = tuple(f"$KV.{BUCKET}.{key}" for key in (SEED_KEY, SEED_LEASE_KEY))

PUBLISH: Final = (
    "_INBOX.>",
    f"{EVENT_PREFIX}*",
    *_SEED_SUBJECTS,
    *(f"$JS.API.DIRECT.GET.{_KV}.{subject}" for subject in _SEED_SUBJECTS),
    f"$JS.API.STREAM.MSG.GET.{_KV}",
    f"$JS.API.STREAM.INFO.{_KV}",
    f"$JS.API.STREAM.INFO.{STREAM}",
    "$SYS.REQ.USER.INFO",  # its own permissions, for `python -m service --check`
)
"""What the role's NATS user may publish to, beside one response to each request."""

SUBSCRIBE: Final = (
    f"{SUBJECT} {QUEUE_GROUP}",
    *(
        f"$SRV.{verb}{suffix}"
        for verb in ("PING", "INFO", "STATS")
        for suffix in ("", f".{SERVICE_NAME}", f".{SERVICE_NAME}.*")
    ),
    f"{INBOX_PREFIX}.>",
)
"""What the role's NATS user may subscribe to; `subject queue` is that queue group alone."""

KEY_ATTRIBUTE: Final = "id"
BALANCE_ATTRIBUTE: Final = "client_balance"

METRICS_NAMESPACE: Final = "CustomerBalance"
METRICS_DIMENSION: Final = "Table"
"""CloudWatch's. The one name that the environment gives a task, and that no two deployments share."""

CLIENT_ID_MAX: Final = 128
CLIENT_ID_CHARACTER: Final = r"[^\s\u0000-\u001f\u007f-\u009f.*>]"
"""Each character of a client's id, which is one NATS subject token."""

REQUEST_SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["client_id"],
    "properties": {
        "client_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": CLIENT_ID_MAX,
            "pattern": f"^{CLIENT_ID_CHARACTER}+$",
        }
    },
}
RESPONSE_SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["balance"],
    "properties": {"balance": {"type": "integer"}},
}
