"""The stream of the events, those who read it, and what a reader's NATS user needs."""

from typing import Final

STREAM: Final = "customer-balances"

EVENT_PREFIX: Final = "customer.balance."
"""An event's subject is this and the client's id, one token."""
ADJUSTED_PREFIX: Final = "customer.adjusted."
"""The subject of an adjustment's whole reply is this and the client's id."""
STREAM_SUBJECTS: Final = (f"{EVENT_PREFIX}>", f"{ADJUSTED_PREFIX}>")

ARCHIVE_CONSUMER: Final = "archive"
"""The stream's consumer by which the role `archive` reads it, where that role is run."""
QUEUE_CONSUMER: Final = "queue"
"""The same of the role `queue`."""
QUEUE_DEAD_STREAM: Final = "queue-dead"
"""Where that role sets messages aside."""


def publish_of_reader(stream: str, consumer: str, dead_stream: str, dead_subject: str) -> tuple[str, ...]:
    """Publish permissions of a stream reader: consumer, acknowledgements, dead letters, its own permissions."""
    return (
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}",
        f"$JS.API.CONSUMER.INFO.{stream}.{consumer}",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.INFO.{dead_stream}",
        f"$JS.ACK.{stream}.{consumer}.>",
        f"$JS.ACK.*.*.{stream}.{consumer}.>",  # with domain and account, as ADR-15 has it
        f"{dead_subject}.*",
        "$SYS.REQ.USER.INFO",
    )
