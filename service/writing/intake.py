"""Fill the ledger: several receives at a time, only as many as there is room for."""

from __future__ import annotations

import asyncio
from typing import Final, Generic

import structlog

from service.runtime.cancel import cancel
from service.runtime.logs import Repeated
from service.sources.source import M, Unreachable, WorkSource
from service.writing.ledger import Ledger

log: Final = structlog.get_logger("service.archive")
_unavailable: Final = Repeated(log, "the source does not hand out messages")

RECEIVES: Final = 4
"""Receives at a time. A server fills a consumer's pulls in turn, so they complete together: with as many as fit into
the room, everything held would be written before the next message came.
"""
WAIT_S: Final = 5.0
PAUSE_S: Final = 1.0


class Intake(Generic[M]):
    """Receives in `RECEIVES` loops. Call `start` first; `stop` returns when no more messages will come."""

    def __init__(self, source: WorkSource[M], ledger: Ledger[M]) -> None:
        self._source = source
        self._ledger = ledger
        self._stopping = False
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._loops = [asyncio.create_task(self._receive(), name="receive") for _ in range(RECEIVES)]

    async def stop(self) -> None:
        self._stopping = True
        self._ledger.freed.set()
        await self._source.take_no_more()
        await asyncio.gather(*self._loops)

    async def close(self) -> None:
        for loop in self._loops:
            await cancel(loop)

    async def _receive(self) -> None:
        ledger = self._ledger
        while not self._stopping:
            ledger.portion = messages, size = self._source.portion  # each time: SQS learns how large its messages are
            if not ledger.has_room():
                ledger.freed.clear()
                await ledger.freed.wait()
                continue
            ledger.receiving += 1
            try:
                if received := await self._source.receive(messages, size, self._source.visibility_s, WAIT_S):
                    ledger.take(received)
            except Unreachable as error:
                _unavailable.warning("", error=str(error))
            except Exception:  # its messages are delivered again, and the next receive may succeed
                log.exception("receive failed")
                await asyncio.sleep(PAUSE_S)
            finally:
                ledger.receiving -= 1
