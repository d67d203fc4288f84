"""Sources of messages: three interfaces, one for each kind of caller. `JetStream` and `Sqs` implement all of them.

A role that processes messages itself takes a `WorkSource`: `acknowledge`, `extend` and `give_back` return at once, and
if one is lost the message is received again. A role that hands messages on takes a `ReceiptSource`: `delete` and
`change_visibility` accept receipts made by any process, and return what the queue confirmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from service.runtime.role import Need

Headers = tuple[tuple[str, str], ...]


class Message(Protocol):
    """The members that messages of every source have. A message never changes."""

    @property
    def id(self) -> str:
        """Identifies the message: the same at each delivery."""

    @property
    def data(self) -> bytes: ...

    @property
    def headers(self) -> Headers:
        """Its headers, in order."""

    @property
    def times_received(self) -> int: ...

    @property
    def sent_ns(self) -> int:
        """When it was stored, in ns since 1970."""

    @property
    def size(self) -> int:
        """Bytes that count against limits while the message is held."""


M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)
M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


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


class Source(Protocol[M_co]):
    """Messages that are invisible to others for a while after each receive, until they are deleted."""

    def needs(self) -> Sequence[Need]:
        """Return what must hold before `start`, in the order in which to check it."""

    async def start(self) -> None:
        """Return when the source is ready to receive. Call it once, after the `needs` were met."""

    async def receive(self, limit: int, max_bytes: int, visibility_s: float, wait_s: float) -> Sequence[M_co]:
        """Return up to `limit` messages and about `max_bytes`; wait up to `wait_s` seconds for the first one.

        A single message may exceed `max_bytes`. Each stays invisible to others for `visibility_s` seconds. Raises
        `Unreachable` when the source could not be reached at the end of that time.
        """

    async def take_no_more(self) -> None:
        """End waiting receives; each returns what it has. Messages still on their way are given back."""

    async def settle(self) -> None:
        """Return when every message acknowledged, given back or released so far is so at the source."""

    def problem(self) -> str:
        """Return why the source cannot be reached now; '' if it can."""

    async def close(self) -> None:
        """Finish pending answers, for about a second at most. Call it before the connection is closed."""


class WorkSource(Source[M], Protocol[M]):
    """A source whose messages are processed here."""

    name: str

    @property
    def visibility_s(self) -> float:
        """Default visibility timeout: asking for it costs no extra call, and `extend` adds as much again."""

    @property
    def portion(self) -> tuple[int, int]:
        """Best `limit` and `max_bytes` for one receive. Any message fits into these bytes."""

    def acknowledge(self, messages: Sequence[M]) -> None:
        """Delete processed messages. Returns at once; a stream's acknowledgements leave up to 50 ms later."""

    def extend(self, messages: Sequence[M]) -> None:
        """Keep messages invisible for another `visibility_s` from now."""

    def give_back(self, messages: Sequence[M], delay_s: float = 0.0) -> None:
        """Make messages visible again, now or after `delay_s` seconds."""

    async def backlog(self) -> Backlog:
        """Count what is left. Raises `Unreachable` when it cannot be read now, `ServiceError` if the source is gone."""


class ReceiptSource(Source[M], Protocol[M]):
    """A source whose messages are handed on, each with a receipt."""

    def receipt(self, message: M) -> str:
        """Return the receipt that deletes this message or changes its visibility. Each delivery has another."""

    def key(self, receipt: str) -> str:
        """Return what all receipts of one message share, if the queue reveals it; else the receipt itself.

        Raises `UnknownReceipt`.
        """

    async def delete(self, receipts: Sequence[str]) -> list[Result]:
        """Delete by receipt; return for each, in order, what the queue confirmed. Returns errors, raises none."""

    async def change_visibility(self, receipts: Sequence[str], visibility_s: float) -> list[Result]:
        """Hide each message for `visibility_s` seconds from now (0: visible at once); results as for `delete`."""

    def release(self, receipts: Sequence[str]) -> None:
        """Make messages visible again that no client will get. Returns at once, and nothing confirms it."""
