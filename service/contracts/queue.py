"""Names that the role `queue` shares with its clients and with the provisioning of NATS."""

from typing import Final

from service.contracts import stream as events

USER: Final = "queue"
INBOX_PREFIX: Final = "_INBOX_queue"
STREAM: Final = events.STREAM
CONSUMER: Final = events.QUEUE_CONSUMER
ACK_WAIT_S: Final = 30
MAX_ACK_PENDING: Final = 20_000
"""Maximum messages that all clients of all sidecars may hold together."""

DEAD_STREAM: Final = events.QUEUE_DEAD_STREAM
DEAD_SUBJECT: Final = "queue.dead"
"""A dead letter's subject is this, a dot and its stream's name."""
DEAD_BYTES: Final = 1024 * 1024

LISTEN: Final = "127.0.0.1:50051"
GRPC_SERVICE: Final = "sqs.SQSService"


def publish(stream: str, consumer: str) -> tuple[str, ...]:
    """Return the publish permissions of the role's NATS user: consumer, acknowledgements, dead letters."""
    return events.publish_of_reader(stream, consumer, DEAD_STREAM, DEAD_SUBJECT)


PUBLISH: Final = publish(STREAM, CONSUMER)
SUBSCRIBE: Final = (f"{INBOX_PREFIX}.>",)
"""Subscribe permissions of the role's NATS user."""
