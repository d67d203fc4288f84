"""Feed the archiver: several receives at a time, only as many as there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from service.runtime.cancel import cancel
from service.runtime.logs import Repeated
from service.sources.source import Message, Source, Unreachable

log: Final = structlog.get_logger("service.archive")
_unavailable: Final = Repeated(log, "the source does not hand out messages")

RECEIVES: Final = 4
"""Receives at a time. A server fills a consumer's pulls in turn, so they complete together: with as many as fit into
the room, everything held would be written before the next message came.
"""
WAIT_S: Final = 5.0
PAUSE_S: Final = 1.0


class Room(Protocol):
    """Takes messages, and knows how much more it can hold."""

    def take(self, messages: Sequence[Message]) -> None:
        """Hold the messages."""
        ...

    def room(self) -> tuple[int, int]:
        """Return how many more messages and bytes it can hold."""
        ...

    def is_empty(self) -> bool:
        """Return whether it holds nothing."""
        ...


class Intake:
    """Receives in `RECEIVES` loops. Call `start` first; `stop` returns when no more messages will come."""

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
        """Wake the loops if there is room again."""
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
            messages, size = self._source.portion  # read each time: SQS learns how large its messages are
            if not self._has_room(messages, size):
                self._changed.clear()
                await self._changed.wait()
                continue
            self._receiving += 1
            try:
                if received := await self._source.receive(messages, size, self._source.visibility_s, WAIT_S):
                    self._room.take(received)
            except Unreachable as error:
                _unavailable.warning("", error=str(error))
            except Exception:  # its messages are delivered again, and the next receive may succeed
                log.exception("receive failed")
                await asyncio.sleep(PAUSE_S)
            finally:
                self._receiving -= 1

    def _has_room(self, messages: int, size: int) -> bool:
        """Return whether another receive fits. With nothing held one always may: any message must come through."""
        free, free_bytes = self._room.room()
        asked = self._receiving + 1
        return (free >= asked * messages and free_bytes >= asked * size) or (asked == 1 and self._room.is_empty())
