"""The names this service shares with its clients and with whoever provisions NATS for it."""

from typing import Final

SERVICE_NAME: Final = "customer"
ENDPOINT_NAME: Final = "balance"
SUBJECT: Final = "customer.balance"
QUEUE_GROUP: Final = "q"

EVENT_PREFIX: Final = "customer.balance."
"""An event's subject is this and the client's id, one token."""

STREAM: Final = "customer-balances"
STREAM_SUBJECTS: Final = ("customer.balance.>",)

BUCKET: Final = "config"
SEED_KEY: Final = "seed"
SEED_DONE: Final = b"done"
SEED_LEASE_KEY: Final = "seed-lease"
"""Held in `BUCKET` by the one task that is seeding; gone when the table is seeded."""

INBOX_PREFIX: Final = "_INBOX_service"
"""The service's own inboxes, so that no other user's permissions reach its acknowledgements."""

KEY_ATTRIBUTE: Final = "id"
BALANCE_ATTRIBUTE: Final = "client_balance"

REQUEST_SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["client_id"],
    "properties": {
        "client_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "pattern": r"^[^\s\u0000-\u001f\u007f-\u009f.*>]+$",
        }
    },
}
RESPONSE_SCHEMA: Final = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["balance"],
    "properties": {"balance": {"type": "integer"}},
}
