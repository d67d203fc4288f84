"""A receipt of a JetStream delivery: numbers alone, so that it can name its own consumer's messages only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.sources.source import UnknownReceipt

FIELDS = 6
LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Receipt:
    consumer_id: int
    """When the consumer was made, in microseconds: one that is made anew has another."""
    delivered: int
    sequence: int
    consumer_sequence: int
    time_ns: int
    deadline_ms: int

    def __str__(self) -> str:
        return (
            f"{self.consumer_id}-{self.delivered}-{self.sequence}-{self.consumer_sequence}"
            f"-{self.time_ns}-{self.deadline_ms}"
        )

    def until(self, deadline_ms: int) -> Receipt:
        return replace(self, deadline_ms=deadline_ms)

    def subject(self, prefix: str) -> str:
        """Where this delivery is acknowledged: ADR-15."""
        return f"{prefix}.{self.delivered}.{self.sequence}.{self.consumer_sequence}.{self.time_ns}.0"


def parse(text: str, consumer_id: int) -> Receipt:
    """Raises `UnknownReceipt` for anything but a receipt of this consumer."""
    parts = text.split("-")
    if len(parts) != FIELDS or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise UnknownReceipt("this is no receipt; give the messageID as it was received")
    receipt = Receipt(*map(int, parts))
    if receipt.consumer_id != consumer_id:
        raise UnknownReceipt("the receipt is another queue's; give it to a sidecar of the queue it came from")
    if not 0 < receipt.delivered <= LARGEST or not 0 < receipt.sequence <= LARGEST:
        raise UnknownReceipt("this is no receipt; give the messageID as it was received")
    return receipt
