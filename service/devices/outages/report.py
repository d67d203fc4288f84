"""Report outages to a webhook: one post for each window, from one process at a time, again until it is taken.

A window is `OUTAGE_WINDOW` seconds of the stream's own time from its first event on. So a process that takes over makes
the same posts, with the same `Idempotency-Key`, as the one that died after a post and before its acknowledgement.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import structlog

from service.contracts import devices as contract
from service.devices.outages.oldest import OldestOutage
from service.devices.outages.post import body, key, names
from service.devices.presence.lock import Lock
from service.devices.settings import DevicesSettings
from service.nats.connection import Connection
from service.runtime.background import background
from service.runtime.cancel import cancel
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need
from service.sources.jetstream.consumer import Reader
from service.sources.jetstream.message import StreamMessage
from service.sources.jetstream.source import JetStream
from service.sources.source import Unreachable

log: Final = structlog.get_logger("service.devices")
_refused: Final = Repeated(log, "outages are not reported yet; the post is made again")
_unavailable: Final = Repeated(log, "outages cannot be read")

NS: Final = 1_000_000_000
MAX_HELD: Final = 20_000
"""Most events held at a time: as many as the consumer hands out (`MAX_ACK_PENDING`)."""
POST_S: Final = 10.0
PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
WAIT_S: Final = 5.0
TICK_S: Final = 0.5
EXTEND_DIVISOR: Final = 3
_OK: Final = range(200, 300)


@dataclass(slots=True)
class Stats:
    reports: int = 0
    """Posts that were taken."""
    devices: int = 0
    """Devices that they named."""
    failures: int = 0
    """Posts that were not taken."""


class Reporter:
    """Does nothing without `OUTAGE_WEBHOOK`. `fail` ends the process when the consumer is gone."""

    def __init__(self, connection: Connection, settings: DevicesSettings, fail: Callable[[ServiceError], None]) -> None:
        hook, bot = settings.outage_webhook, settings.outage_bot_id
        self._url = hook.get_secret_value() if hook else ""
        self._bot_id = bot.get_secret_value() if bot else ""
        self._form = settings.outage_form
        self._window_ns = int(settings.outage_window * NS)
        self._fail = fail
        self.stats = Stats()
        self._oldest = OldestOutage(connection.nc)
        reader = Reader(contract.USER, contract.OUTAGES_STREAM, contract.WEBHOOK_CONSUMER, (), ())
        self._source = JetStream(connection, reader)
        self._lock = Lock(connection.nc, contract.LOCK_WEBHOOK)
        self._held: dict[StreamMessage, float] = {}
        """Event -> when it was received or extended, on the loop's clock."""
        self._stop = asyncio.Event()
        self._problem = ""
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    def needs(self) -> Sequence[Need]:
        """Return what must hold before `start`. The user's permissions are the role's own need."""
        return [need for need in self._source.needs() if self._url and need.name != "permissions"]

    async def start(self) -> None:
        if self._url:
            await self._source.start()
            self._tasks = [
                background(self._lock.hold(self._report), "report"), background(self._extend(), "extend"),
                background(self._oldest.run(), "oldest outage"),
            ]  # fmt: skip

    def oldest_s(self) -> float:
        """Return the age in seconds of the oldest outage that no process has reported; 0 if all are."""
        return self._oldest.age_s()

    def problem(self) -> str:
        """Return why outages are not reported now; '' if they are, or another process does it."""
        return self._problem

    async def drain(self, timeout_s: float) -> None:
        """End the post that runs, within the time. Events that are not reported go to the next process at once."""
        self._stop.set()
        if self._tasks:
            await self._source.take_no_more()
            await asyncio.wait(self._tasks[:1], timeout=timeout_s / 2)
            await cancel(*self._tasks)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s / 2):
                    await self._source.settle()

    async def close(self) -> None:
        self._stop.set()
        await cancel(*self._tasks)
        if self._url:
            await self._source.close()

    async def _report(self) -> None:
        """Report one window after another, while this process has the lock."""
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=POST_S)) as http:
                while not self._stop.is_set():
                    if window := await self._gather():
                        await self._post(http, window)
        finally:
            self._source.give_back(list(self._held))
            self._held.clear()

    async def _gather(self) -> list[StreamMessage]:
        """Return the events of the first window, when it is over."""
        began_s = self._loop.time()
        while not self._stop.is_set():
            window = self._window()
            if not window:
                began_s = self._loop.time()
            is_over = self._loop.time() - began_s >= self._window_ns / NS or len(window) < len(self._held)
            if window and (is_over or len(self._held) >= MAX_HELD):
                return window
            await self._receive(TICK_S if window else WAIT_S)
        return []

    def _window(self) -> list[StreamMessage]:
        events = sorted(self._held, key=lambda event: event.sequence)
        return [event for event in events if event.sent_ns <= events[0].sent_ns + self._window_ns]

    async def _receive(self, wait_s: float) -> None:
        limit, size = self._source.portion
        try:
            received = await self._source.receive(limit, size, self._source.visibility_s, wait_s)
        except Unreachable as error:
            _unavailable.warning("", error=str(error))
            await self._look()
            return
        held = {event.sequence: event for event in self._held}
        for event in received:  # one that came again replaces its earlier delivery
            if again := held.get(event.sequence):
                del self._held[again]
            self._held[event] = self._loop.time()

    async def _look(self) -> None:
        with contextlib.suppress(Unreachable):
            try:
                await self._source.backlog()
            except ServiceError as error:
                self._fail(error)
        await asyncio.sleep(PAUSE_S)

    async def _post(self, http: aiohttp.ClientSession, window: Sequence[StreamMessage]) -> None:
        """Post until it is taken, then acknowledge. Returns early when this process stops."""
        down, up = names(window, "down"), names(window, "up")
        said = body(self._form, down, up, self._bot_id)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key(window)}
        pause_s = PAUSE_S
        while down or up:
            problem, asked_s = await self._try(http, said, headers)
            self._problem = problem and f"the webhook takes no post ({problem})"
            if not problem:
                self.stats.reports += 1
                self.stats.devices += len(down) + len(up)
                log.info("outages reported", down=len(down), up=len(up))
                break
            self.stats.failures += 1
            _refused.warning(problem, problem=problem, down=len(down), up=len(up))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(asked_s, pause_s * random.uniform(0.5, 1.0))):
                    await self._stop.wait()
                    return
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        sequences = {event.sequence for event in window}
        done = [event for event in self._held if event.sequence in sequences]
        self._source.acknowledge(done)
        for event in done:
            del self._held[event]

    async def _try(self, http: aiohttp.ClientSession, said: bytes, headers: dict[str, str]) -> tuple[str, float]:
        """Return why the post was not taken, '' if it was, and the seconds that the receiver asks to wait."""
        try:
            async with http.post(self._url, data=said, headers=headers, allow_redirects=False) as response:
                if response.status in _OK:
                    return "", 0.0
                asked = response.headers.get("Retry-After", "")
                wait_s = min(float(asked), PAUSE_MAX_S) if asked.isdecimal() else 0.0
                return f"status {response.status}", wait_s
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return type(error).__name__, 0.0  # its text may have the URL, which is a secret

    async def _extend(self) -> None:
        """Keep the held events from being delivered again, however long the webhook is down."""
        while True:
            every_s = self._source.visibility_s / EXTEND_DIVISOR
            await asyncio.sleep(every_s / 4)
            now = self._loop.time()
            if due := [event for event, since_s in self._held.items() if now - since_s > every_s]:
                self._source.extend(due)
                self._held |= dict.fromkeys(due, now)
