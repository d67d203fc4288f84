"""A receipt of a JetStream delivery: numbers only; the last is a tag that only this queue's sidecars can make."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from service.sources.jetstream.message import StreamMessage
from service.sources.source import UnknownReceipt

LONGEST: Final = 6 * 20
TAG_BYTES: Final = 7


@dataclass(frozen=True, slots=True)
class Receipt:
    delivered: int
    sequence: int
    consumer_sequence: int
    time_ns: int
    deadline_ms: int
    """End of its visibility timeout, in ms since 1970: changing it later could affect another client's message."""

    @classmethod
    def of(cls, message: StreamMessage) -> Receipt:
        at = message.sequence, message.number, message.sent_ns
        return cls(message.times_received, *at, message.until_ms)

    def until(self, deadline_ms: int) -> Receipt:
        return replace(self, deadline_ms=deadline_ms)

    def subject(self, prefix: str) -> str:
        """Return the subject that acknowledges this delivery: ADR-15."""
        return f"{prefix}.{self.delivered}.{self.sequence}.{self.consumer_sequence}.{self.time_ns}.0"


class Receipts:
    """Makes and parses the receipts of one consumer.

    The key is known to every sidecar of the queue and not to a client: the consumer's exact time of creation. So a
    damaged, invented or foreign receipt is refused. It does not defend against a malicious client, which may receive
    and delete the whole queue anyway.
    """

    def __init__(self, consumer: str, created_us: int) -> None:
        self._tags = hashlib.blake2b(key=f"{created_us} {consumer}".encode()[:64], digest_size=TAG_BYTES)

    def text(self, receipt: Receipt) -> str:
        numbers = (
            f"{receipt.delivered}-{receipt.sequence}-{receipt.consumer_sequence}"
            f"-{receipt.time_ns}-{receipt.deadline_ms}"
        )
        return f"{numbers}-{self._tag(numbers)}"

    def parse(self, text: str) -> Receipt:
        """Parse a receipt. Raises `UnknownReceipt` for anything but a receipt of this consumer."""
        numbers, _, tag = text.rpartition("-")
        if len(text) > LONGEST or not text.isascii() or tag != self._tag(numbers):
            raise UnknownReceipt(
                "the receipt is not from this queue; give the messageID as it was received, to a sidecar of its queue"
            )
        return Receipt(*map(int, numbers.split("-")))

    def _tag(self, numbers: str) -> str:
        tag = self._tags.copy()
        tag.update(numbers.encode())
        return str(int.from_bytes(tag.digest(), "big"))


Make = Callable[[Receipt], tuple[bytes, Receipt]]
"""Return the payload for the server, and the receipt that is valid afterwards. Raises `UnknownReceipt`."""
