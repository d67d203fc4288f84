"""The stream of events, its consumers, and the permissions of a reader's NATS user."""

from typing import Final

STREAM: Final = "customer-balances"

EVENT_PREFIX: Final = "customer.balance."
"""An event's subject is this and the client's id, one token."""
ADJUSTED_PREFIX: Final = "customer.adjusted."
"""The subject of an adjustment's event, its whole reply, is this and the client's id."""
STREAM_SUBJECTS: Final = (f"{EVENT_PREFIX}>", f"{ADJUSTED_PREFIX}>")

ARCHIVE_CONSUMER: Final = "archive"
"""The consumer of the role `archive`, where that role runs."""
QUEUE_CONSUMER: Final = "queue"
"""The consumer of the role `queue`, where that role runs."""
QUEUE_DEAD_STREAM: Final = "queue-dead"
"""The stream of the role `queue`'s dead letters."""


def publish_of_reader(stream: str, consumer: str, dead_stream: str, dead_subject: str) -> tuple[str, ...]:
    """Return the publish permissions of a stream reader: consumer, acknowledgements, dead letters, user info."""
    return (
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}",
        f"$JS.API.CONSUMER.INFO.{stream}.{consumer}",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.INFO.{dead_stream}",
        f"$JS.ACK.{stream}.{consumer}.>",
        f"$JS.ACK.*.*.{stream}.{consumer}.>",  # the form with domain and account: ADR-15
        f"{dead_subject}.*",
        "$SYS.REQ.USER.INFO",
    )
