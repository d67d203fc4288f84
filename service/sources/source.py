"""Messages that are received, worked on and acknowledged. `JetStream` and `Sqs` meet this.

Who works on a message itself holds the `Message`: `acknowledge`, `extend` and `give_back` return at once, and an answer
that is lost is a message received once more. Who hands it on gives a receipt away: `delete` and `change_visibility`
take receipts back, from any process, and return what the queue confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.runtime.role import Need

Headers = tuple[tuple[str, str], ...]


@dataclass(slots=True, eq=False)
class Message:
    handle: str
    """What the source knows this delivery by."""
    id: str
    """The message's own, the same at each delivery."""
    sequence: int | None
    """In its stream; None for a queue's message."""
    data: bytes
    subject: bytes
    block: bytes
    """Its headers as they came."""
    read_headers: Callable[[bytes], Headers]
    """Of the block, only when they are wanted: parsed, tiny ones take fifty times as much memory."""
    times_received: int
    sent_ns: int
    size: int
    """Bytes that it takes while it is held."""
    number: int = 0
    """Of its delivery, as the stream's consumer counts."""
    consumer: int = 0
    """Which of the consumers of that name delivered it: when it was made, in microseconds."""
    until_ms: int = 0
    """Until when others do not see it, in milliseconds since 1970, where whoever received it asked for that; else 0."""

    @property
    def headers(self) -> Headers:
        """In their order."""
        return self.read_headers(self.block)


@dataclass(frozen=True, slots=True)
class Backlog:
    messages: int
    """Those that wait, and those that anyone holds."""
    unconfirmed: int = 0
    """Of those that the source has discarded already, how many it had not seen acknowledged without a gap before."""


@dataclass(frozen=True, slots=True)
class Done:
    """A receipt was accepted. `receipt` is the one to use from now on."""

    receipt: str


class UnknownReceipt(Exception):
    """The receipt is not this queue's."""


class TooLong(Exception):
    """The queue does not keep this message invisible for so long."""


class Unavailable(Exception):
    """The queue cannot be reached now; the same call may succeed later."""


Result = Done | UnknownReceipt | TooLong | Unavailable


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

    @property
    def visibility_s(self) -> float:
        """The one that costs nothing to ask for; an extension is for as long again."""
        ...

    @property
    def portion(self) -> tuple[int, int]:
        """Messages and bytes that one receive is best asked for. Any message fits into these bytes."""
        ...

    @property
    def discarded(self) -> int:
        """Messages that the source discarded before anyone was given them, as far as this process saw."""
        ...

    def needs(self) -> Sequence[Need]: ...

    async def start(self) -> None: ...

    async def receive(self, limit: int, max_bytes: int, visibility_s: float, wait_s: float) -> list[Message]:
        """Up to `limit` messages; waits for the first one `wait_s` seconds.

        Raises `Unavailable` when the queue was not reached for all that time.
        """
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None: ...

    def extend(self, messages: Sequence[Message]) -> None:
        """Keep them invisible."""
        ...

    def give_back(self, messages: Sequence[Message], delay_s: float = 0.0) -> None:
        """Let them be received again, at once or after `delay_s` seconds."""
        ...

    async def settle(self) -> None:
        """Return when what was acknowledged and given back has reached the source."""
        ...

    def receipt(self, message: Message) -> str:
        """What deletes this delivery's message, or changes its visibility; it changes with each delivery."""
        ...

    async def delete(self, receipts: Sequence[str]) -> list[Result]:
        """Return when the queue has confirmed each of them, or did not in time."""
        ...

    async def change_visibility(self, receipts: Sequence[str], visibility_s: float) -> list[Result]: ...

    def key(self, receipt: str) -> str:
        """What the receipts of one message have in common, where the queue tells. Raises `UnknownReceipt`."""
        ...

    async def backlog(self) -> Backlog:
        """Raises `Unavailable` when it cannot be told now, and `ServiceError` when the source is gone."""
        ...

    async def take_no_more(self) -> None:
        """Receives that wait end at once with what they have. What is still on its way is given back."""
        ...

    def problem(self) -> str:
        """Why it cannot be reached now; empty when it can."""
        ...

    async def remark(self) -> str:
        """Why nothing is handed out though all is well: it is full, or paused; else empty."""
        ...

    async def close(self) -> None: ...
