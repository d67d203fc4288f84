"""The interface of a source: messages to receive, process and acknowledge. `JetStream` and `Sqs` implement it.

A role that processes a message itself keeps the `Message`: `acknowledge`, `extend` and `give_back` return at once, and
if one is lost the message is received again. A role that hands messages on gives its client a receipt: `delete` and
`change_visibility` accept receipts made by any process, and return what the queue confirmed.
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
    """The source's name for this delivery."""
    id: str
    """Identifies the message: the same at each delivery."""
    sequence: int | None
    """Sequence in its stream; None for a message of SQS."""
    data: bytes
    subject: bytes
    block: bytes
    """Its headers, unparsed."""
    read_headers: Callable[[bytes], Headers]
    """Parses `block`, only when needed: parsed, tiny headers take fifty times as much memory."""
    times_received: int
    sent_ns: int
    size: int
    """Bytes that count against limits while the message is held."""
    number: int = 0
    """Number of this delivery at the stream's consumer."""
    consumer: int = 0
    """The consumer that delivered it: its time of creation, in microseconds since 1970."""
    until_ms: int = 0
    """End of its visibility timeout, in ms since 1970. Set by `JetStream.receive`; else 0."""

    @property
    def headers(self) -> Headers:
        """Its headers, in order."""
        return self.read_headers(self.block)


@dataclass(frozen=True, slots=True)
class Backlog:
    messages: int
    """Messages that wait, and those delivered and not acknowledged."""
    unconfirmed: int = 0
    """Discarded messages above the consumer's ack floor: they may never have been processed."""


@dataclass(frozen=True, slots=True)
class Done:
    """The receipt was accepted. `receipt` replaces it from now on."""

    receipt: str


class UnknownReceipt(Exception):
    """The receipt is not this queue's, or no longer valid."""


class TooLong(Exception):
    """The queue cannot keep this message invisible for that long."""


class Unreachable(Exception):
    """The queue cannot be reached now; the same call may succeed later."""


Result = Done | UnknownReceipt | TooLong | Unreachable


class Source(Protocol):
    """Messages that are invisible to others for a while after each receive, until they are deleted."""

    name: str

    @property
    def dead_letters(self) -> int:
        """Messages that this process set aside because they were received too often."""
        ...

    @property
    def dead_letters_refused(self) -> int:
        """Failed attempts to set one aside. It is not handed out, and is tried again at its next delivery."""
        ...

    @property
    def visibility_s(self) -> float:
        """Default visibility timeout: asking for it costs no extra call, and `extend` adds as much again."""
        ...

    @property
    def portion(self) -> tuple[int, int]:
        """Best `limit` and `max_bytes` for one receive. Any message fits into these bytes."""
        ...

    @property
    def discarded(self) -> int:
        """Messages that the source discarded before their first delivery, as far as this process has seen."""
        ...

    def needs(self) -> Sequence[Need]:
        """Return what must hold before `start`, in the order in which to check it."""
        ...

    async def start(self) -> None:
        """Return when the source is ready to receive. Call it once, after the `needs` were met."""
        ...

    async def receive(self, limit: int, max_bytes: int, visibility_s: float, wait_s: float) -> list[Message]:
        """Return up to `limit` messages and about `max_bytes`; wait up to `wait_s` seconds for the first one.

        A single message may exceed `max_bytes`. Each stays invisible to others for `visibility_s` seconds. Raises
        `Unreachable` when the source could not be reached at the end of that time.
        """
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Delete processed messages. Returns at once; a stream's acknowledgements leave up to 50 ms later."""
        ...

    def extend(self, messages: Sequence[Message]) -> None:
        """Keep messages invisible for another `visibility_s` from now."""
        ...

    def give_back(self, messages: Sequence[Message], delay_s: float = 0.0) -> None:
        """Make messages visible again, now or after `delay_s` seconds."""
        ...

    async def settle(self) -> None:
        """Return when every `acknowledge` and `give_back` so far has reached the source."""
        ...

    def receipt(self, message: Message) -> str:
        """Return the receipt that deletes this message or changes its visibility. Each delivery has another."""
        ...

    async def delete(self, receipts: Sequence[str]) -> list[Result]:
        """Delete by receipt; return for each, in order, what the queue confirmed. Returns errors, raises none."""
        ...

    async def change_visibility(self, receipts: Sequence[str], visibility_s: float) -> list[Result]:
        """Hide each message for `visibility_s` seconds from now (0: visible at once); results as for `delete`."""
        ...

    def key(self, receipt: str) -> str:
        """Return what all receipts of one message share, if the queue reveals it; else the receipt itself.

        Raises `UnknownReceipt`.
        """
        ...

    async def backlog(self) -> Backlog:
        """Count what is left. Raises `Unreachable` when it cannot be read now, `ServiceError` if the source is gone."""
        ...

    async def take_no_more(self) -> None:
        """End waiting receives; each returns what it has. Messages still on their way are given back."""
        ...

    def problem(self) -> str:
        """Return why the source cannot be reached now; '' if it can."""
        ...

    async def remark(self) -> str:
        """Return why nothing is handed out by design (full or paused); else ''."""
        ...

    async def close(self) -> None:
        """Finish pending answers, for about a second at most. Call it before the connection is closed."""
        ...
