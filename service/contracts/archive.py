"""Names that the role `archive` shares with the provisioning of NATS and its table, and with readers of the rows."""

from typing import Final

from service.contracts import stream as events
from service.contracts.requests import discovery

SERVICE_NAME: Final = "archive"
USER: Final = "archive"
INBOX_PREFIX: Final = "_INBOX_archive"
CONSUMER: Final = events.ARCHIVE_CONSUMER

STREAM: Final = events.STREAM
"""The stream for which the control plane grants the archive permissions."""

ACK_WAIT_S: Final = 30
MAX_ACK_PENDING: Final = 20_000
"""Of all tasks together; each holds at most 2,500."""
STREAM_BYTES: Final = 1024**3
"""Size of the stream when the archive is enabled: the backlog that may wait while no task runs."""

DEAD_STREAM: Final = "archive-dead"
DEAD_SUBJECT: Final = "archive.dead"
"""A dead letter's subject is this, a dot and the source's name."""
DEAD_BYTES: Final = 32 * 1024 * 1024

PARTITION_KEY: Final = "client_id"
SORT_KEY: Final = "event"
TTL_ATTRIBUTE: Final = "expires_at"


def publish(stream: str, consumer: str) -> tuple[str, ...]:
    """Return the publish permissions of the role's NATS user, in addition to one response to each request."""
    return events.publish_of_reader(stream, consumer, DEAD_STREAM, DEAD_SUBJECT)


PUBLISH: Final = publish(STREAM, CONSUMER)
SUBSCRIBE: Final = (
    *discovery(SERVICE_NAME),
    f"{INBOX_PREFIX}.>",
)
"""Subscribe permissions of the role's NATS user."""
