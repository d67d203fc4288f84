"""What a queue of messages can do. `JetStream` and `Sqs` meet this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.runtime.role import Need


@dataclass(frozen=True, slots=True)
class Message:
    receipt: str
    """What deletes this delivery's message, or changes its visibility; it changes with each delivery."""
    id: str
    """The message's own, the same at each delivery."""
    data: bytes
    subject: str
    headers: tuple[tuple[str, str], ...]
    times_received: int
    sent_ms: int


@dataclass(frozen=True, slots=True)
class Done:
    """A receipt was accepted. `receipt` is the one to use from now on."""

    receipt: str


class UnknownReceipt(Exception):
    """The receipt is not this queue's."""


class Unavailable(Exception):
    """The queue cannot be reached now; the same call may succeed later."""


Result = Done | UnknownReceipt | Unavailable


class Source(Protocol):
    """Messages that stay invisible to others for a while once they are received, and are gone once they are deleted."""

    name: str

    @property
    def dead_letters(self) -> int:
        """Messages that were received too often, and set aside by this process."""
        ...

    @property
    def dead_letters_refused(self) -> int:
        """How often one could not be set aside. It is handed to nobody, and tried again when it comes again."""
        ...

    def needs(self) -> Sequence[Need]: ...

    async def start(self) -> None: ...

    async def receive(self, limit: int, visibility_s: int, wait_s: float) -> list[Message]:
        """Up to `limit` messages; waits for the first one `wait_s` seconds.

        Raises `Unavailable` when the queue was not reached for all that time.
        """
        ...

    async def delete(self, receipts: Sequence[str]) -> list[Result]:
        """Return when the queue has confirmed each of them, or did not in time."""
        ...

    async def change_visibility(self, receipts: Sequence[str], visibility_s: int) -> list[Result]: ...

    def key(self, receipt: str) -> str:
        """What the receipts of one message have in common, where the queue tells. Raises `UnknownReceipt`."""
        ...

    async def give_back(self, messages: Sequence[Message]) -> None:
        """Let messages that reached nobody be received again at once. Does not raise."""
        ...

    async def backlog(self) -> int:
        """Messages that wait or are with someone. Raises `Unavailable`."""
        ...

    async def take_no_more(self) -> None:
        """Receives that wait end at once with what they have."""
        ...

    def problem(self) -> str:
        """Why it cannot be reached now; empty when it can."""
        ...

    async def close(self) -> None: ...
