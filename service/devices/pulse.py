"""Ask the devices for readings: an empty message on the topic `pulse`, from one process at a time."""

from __future__ import annotations

import asyncio
from typing import Final

import nats.errors
import structlog

from service.contracts import devices as contract
from service.devices.presence.lock import Lock
from service.nats.connection import Connection
from service.runtime.background import background
from service.runtime.cancel import cancel

log: Final = structlog.get_logger("service.devices")


class Pulse:
    """Publishes every `every_s` seconds; 0: never. A pulse at QoS 0 reaches the devices that are connected then."""

    def __init__(self, connection: Connection, every_s: float) -> None:
        self.sent = 0
        self._nc = connection.nc
        self._every_s = every_s
        self._lock = Lock(connection.nc, contract.LOCK_PULSE)
        self._holding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._every_s:
            self._holding = background(self._lock.hold(self._send), "pulse")

    async def close(self) -> None:
        """Stop, and let another process go on at once."""
        if self._holding:
            await cancel(self._holding)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            if self._nc.is_connected:  # kept until a connection is back, pulses would arrive together
                try:
                    self._nc.post(contract.PULSE_SUBJECT, b"")
                    self.sent += 1
                except nats.errors.Error as error:
                    log.warning("a pulse was not sent", error=str(error))
            next_s = max(next_s + self._every_s, loop.time())
            await asyncio.sleep(next_s - loop.time())
