"""Responses to JetStream: acknowledged, retried with the same `Nats-Msg-Id`, bounded.

An event is kept until the stream has acknowledged it. While the stream takes events they are sent as they come,
a window of them unacknowledged at a time. When it refuses one, or stays silent, the others wait behind a single
probe, retried with backoff; its acknowledgement lets them go. So an outage costs a message a second, not a storm,
and the requests go on being answered. What does not fit the bounds is dropped and counted.

| state | `stalled` | a new event | leaves the state |
| --- | --- | --- | --- |
| flowing | None | is sent; waits when `WINDOW` events are unacknowledged | a refusal, or silence for `ACK_WAIT_S` |
| stalled | the reason | waits | an acknowledgement: all that is unacknowledged is sent again, oldest first |

At least once: a retry that comes after the stream's duplicate window may store an event twice.
Acknowledgements: https://docs.nats.io/reference/reference-protocols/nats_api_reference#publishing-to-jetstream
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import nats.errors
import orjson
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from service.customer.contract import EVENT_PREFIX, INBOX_PREFIX, STREAM
from service.runtime.cancel import cancel

log: Final = structlog.get_logger("service.events")

MAX_EVENTS: Final = 100_000
MAX_BYTES: Final = 16 * 1024 * 1024
WINDOW: Final = 4096
"""Events sent and not yet acknowledged."""

ACK_WAIT_S: Final = 2.0
PROBE_MIN_S: Final = 0.1
PROBE_MAX_S: Final = 1.0
_OVERHEAD_BYTES: Final = 64


@dataclass(slots=True)
class Event:
    number: int
    subject: str
    payload: bytes
    size_bytes: int
    traceparent: str | None
    sent_s: float = 0.0


@dataclass(slots=True)
class EventStats:
    published: int = 0
    """Acknowledged by the stream."""
    retried: int = 0
    dropped: int = 0


class Events:
    """Publishes events for one task. `start` first; `flush` before the connection is closed."""

    def __init__(self, nc: Client, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self.stats = EventStats()
        self.stalled: str | None = None
        """Why the stream is not taking events; None while it is."""
        self._nc = nc
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._bytes = 0
        self._next = 0
        self._sent: dict[int, Event] = {}
        self._waiting: deque[Event] = deque()
        self._dropping = False
        self._inbox = ""
        self._id = ""
        self._settled = asyncio.Event()
        self._settled.set()
        self._watch: asyncio.Task[None] | None = None
        self._probe_wait_s = PROBE_MIN_S

    @property
    def pending(self) -> int:
        """Events not yet acknowledged."""
        return len(self._sent) + len(self._waiting)

    async def start(self) -> None:
        # A NUID could be guessed from the service's public one, and an acknowledgement forged.
        self._inbox = f"{INBOX_PREFIX}.{secrets.token_hex(16)}"
        self._id = secrets.token_hex(8)
        await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_ack)
        self._watch = asyncio.create_task(self._watch_acks(), name="events")

    async def publish(self, client_id: str, payload: bytes, traceparent: str | None = None) -> None:
        """Store the event, now or when the stream is reachable again. Does not raise while it is not."""
        subject = EVENT_PREFIX + client_id
        size_bytes = len(subject) + len(payload) + _OVERHEAD_BYTES
        if self.pending >= self._max_events or self._bytes + size_bytes > self._max_bytes:
            self._drop()
            return
        event = Event(self._next, subject, payload, size_bytes, traceparent)
        self._next += 1
        self._bytes += size_bytes
        self._settled.clear()
        if self.stalled is None and len(self._sent) < WINDOW:
            await self._send(event)
        else:
            self._waiting.append(event)

    async def flush(self, timeout_s: float) -> int:
        """Wait until every event is acknowledged; the number that is not, after `timeout_s` seconds.

        At once when the connection is closed for good: none will be.
        """
        if self._nc.is_closed:
            return self.pending
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            log.debug("flush timed out", pending=self.pending)
        return self.pending

    async def close(self) -> None:
        if self._watch:
            await cancel(self._watch)

    async def _send(self, event: Event) -> None:
        event.sent_s = time.monotonic()
        self._sent[event.number] = event
        headers = {"Nats-Msg-Id": f"{self._id}.{event.number}"}
        if event.traceparent:
            headers["traceparent"] = event.traceparent
        try:
            await self._nc.publish(
                event.subject,
                event.payload,
                reply=f"{self._inbox}.{event.number}",
                headers=headers,
            )
        except nats.errors.Error as error:
            self._stall(str(error))

    async def _on_ack(self, msg: Msg) -> None:
        number = msg.subject.rpartition(".")[2]
        if not number.isdecimal() or int(number) not in self._sent:
            return
        problem = _problem(msg)
        if problem is not None:
            self._stall(problem)
            return
        event = self._sent.pop(int(number))
        self.stats.published += 1
        self._bytes -= event.size_bytes
        if self.stalled is not None:
            self._resume()
        if self._waiting:
            await self._send_waiting()
        elif not self._sent:
            self._dropping = False
            self._settled.set()

    async def _send_waiting(self) -> None:
        while self._waiting and len(self._sent) < WINDOW and self.stalled is None:
            await self._send(self._waiting.popleft())

    async def _watch_acks(self) -> None:
        """Notice silence, and probe a stalled stream."""
        while True:
            if self.stalled is None:
                await asyncio.sleep(ACK_WAIT_S / 4)
                self._notice_silence()
            else:
                await asyncio.sleep(self._probe_wait_s * random.uniform(0.5, 1.0))
                self._probe_wait_s = min(PROBE_MAX_S, self._probe_wait_s * 2)
                await self._probe()

    def _notice_silence(self) -> None:
        oldest = next(iter(self._sent.values()), None)
        if oldest and time.monotonic() - oldest.sent_s > ACK_WAIT_S:
            self._stall(f"no acknowledgement within {ACK_WAIT_S:g} seconds")

    async def _probe(self) -> None:
        if self.stalled is None or not self._nc.is_connected:
            return
        oldest = next(iter(self._sent.values()), None) or (self._waiting.popleft() if self._waiting else None)
        if oldest is None:
            self._resume()
            return
        self.stats.retried += 1
        await self._send(oldest)

    def _stall(self, reason: str) -> None:
        """Hold everything back, oldest first, behind the probe."""
        if self.stalled is None:
            self._probe_wait_s = PROBE_MIN_S
            log.warning("events are waiting", reason=reason, pending=self.pending)
        self.stalled = reason

    def _resume(self) -> None:
        held = sorted(self._sent.values(), key=lambda event: event.number)
        self._sent.clear()
        self._waiting.extendleft(reversed(held))
        self.stats.retried += len(held)
        self.stalled = None
        log.info("events are flowing", pending=self.pending, dropped=self.stats.dropped)

    def _drop(self) -> None:
        self.stats.dropped += 1
        if not self._dropping:
            self._dropping = True
            log.error("events are being dropped", pending=self.pending, bytes=self._bytes, reason=self.stalled)


def _problem(msg: Msg) -> str | None:
    """Why the stream did not take an event; None when it did."""
    if msg.headers and msg.headers.get("Status") == "503":
        return "no stream takes the subject"
    try:
        ack = orjson.loads(msg.data)
    except orjson.JSONDecodeError:
        return "unreadable acknowledgement"
    if type(ack) is not dict:
        return "unreadable acknowledgement"
    error = ack.get("error")
    if error:
        return str(error.get("description", error) if type(error) is dict else error)
    return None if ack.get("stream") == STREAM else f"an acknowledgement, and not of stream {STREAM}"
