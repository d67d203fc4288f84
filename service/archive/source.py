"""Where events come from. `JetStream` and `Sqs` meet this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.archive.event import Event
from service.runtime.role import Need


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not archived yet, as the source counts it: what waits, and what any task holds."""

    messages: int
    unconfirmed: int = 0
    """Of those that the source has discarded already, how many it had not seen acknowledged without a gap before."""


class Room(Protocol):
    """What takes the events, and says how much more it can hold."""

    def take(self, event: Event) -> None: ...

    def room(self) -> tuple[int, int]:
        """Events and bytes that it can hold beside what it holds."""
        ...

    def is_empty(self) -> bool: ...


class Source(Protocol):
    """Messages that are delivered, and gone once they are acknowledged."""

    name: str
    """As a word of a subject."""

    def needs(self) -> Sequence[Need]: ...

    async def start(self, room: Room) -> None:
        """Deliver from now on."""
        ...

    def more(self) -> None:
        """There may be room again."""
        ...

    async def take_no_more(self) -> None:
        """Return when everything that was on its way here has been delivered."""
        ...

    async def backlog(self) -> Backlog | None:
        """None: it cannot be told now. Raises `ServiceError` when the source is gone."""
        ...

    def acknowledge(self, events: Sequence[Event]) -> None: ...

    def extend(self, events: Sequence[Event]) -> None:
        """Keep them from being delivered to another task."""
        ...

    def give_back(self, events: Sequence[Event], delay_s: float = 0.0) -> None:
        """Let them be delivered again, at once or after `delay_s` seconds."""
        ...

    @property
    def extend_every_s(self) -> float:
        """Well below the time after which a message is delivered to another task."""
        ...

    @property
    def discarded(self) -> int:
        """Messages that the source discarded before they were archived, as far as this task saw."""
        ...

    async def settle(self) -> None:
        """Return when what was acknowledged and given back has reached the source."""
        ...

    async def close(self) -> None: ...
