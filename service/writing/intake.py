"""What feeds the archiver: receives side by side, and only as many as there is room for what they bring."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from service.runtime.cancel import cancel
from service.runtime.logs import Repeated
from service.sources.source import Message, Source, Unavailable

log: Final = structlog.get_logger("service.archive")
_unavailable: Final = Repeated(log, "the source does not hand out messages")

RECEIVES: Final = 4
"""A server deals out to a consumer's pulls in turn, so they fill together. With as many as there is room for, all that
is held would be written before the next message came.
"""
WAIT_S: Final = 5.0
PAUSE_S: Final = 1.0


class Room(Protocol):
    """What takes the messages, and says how much more it can hold."""

    def take(self, messages: Sequence[Message]) -> None: ...

    def room(self) -> tuple[int, int]:
        """Messages and bytes that it can hold beside what it holds."""
        ...

    def is_empty(self) -> bool: ...


class Intake:
    """`start` first; `stop` returns when nothing more will come."""

    def __init__(self, source: Source, room: Room) -> None:
        self._source = source
        self._room = room
        self._receiving = 0
        self._changed = asyncio.Event()
        self._stopping = False
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._loops = [asyncio.create_task(self._receive(), name="receive") for _ in range(RECEIVES)]

    def more(self) -> None:
        """There may be room again."""
        if self._has_room(*self._source.portion):
            self._changed.set()

    async def stop(self) -> None:
        self._stopping = True
        self._changed.set()
        await self._source.take_no_more()
        await asyncio.gather(*self._loops)

    async def close(self) -> None:
        for loop in self._loops:
            await cancel(loop)

    async def _receive(self) -> None:
        while not self._stopping:
            messages, size = self._source.portion  # a source may learn how large its messages are
            if not self._has_room(messages, size):
                self._changed.clear()
                await self._changed.wait()
                continue
            self._receiving += 1
            try:
                if received := await self._source.receive(messages, size, self._source.visibility_s, WAIT_S):
                    self._room.take(received)
            except Unavailable as error:
                _unavailable.warning("", error=str(error))
            except Exception:  # what it brought comes again, and the next receive is another one
                log.exception("receive failed")
                await asyncio.sleep(PAUSE_S)
            finally:
                self._receiving -= 1

    def _has_room(self, messages: int, size: int) -> bool:
        """A receive may bring more than there is room for when nothing else is held: any message must come through."""
        free, free_bytes = self._room.room()
        asked = self._receiving + 1
        return (free >= asked * messages and free_bytes >= asked * size) or (asked == 1 and self._room.is_empty())
