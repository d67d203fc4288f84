"""Publish events to JetStream: acknowledged, retried with the same `Nats-Msg-Id`, bounded.

An event is held until the stream has acknowledged it. Events of one turn of the event loop are sent together, in
batches, while fewer than the `Window` allows are unacknowledged. The stream answers batches in the order sent.

| state | `stalled` | what is sent | leaves the state |
| --- | --- | --- | --- |
| flowing | None | waiting events, as the window allows | a refusal, or no answer at all for `ack_wait_s` |
| stalled | the reason | the oldest event as a probe, with backoff | a batch sent since then is acknowledged |

So an outage costs one or two messages a second, not a storm, and requests are still answered. Only overdue batches are
sent again: those unanswered for `ack_wait_s` while a later batch, or no batch at all, was answered. Events beyond the
bounds are dropped and counted.

Delivery is at least once: a retry after the stream's duplicate window may store an event twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import nats.errors
import structlog

from service.contracts.stream import EVENT_PREFIX
from service.customer.events import acks
from service.customer.events.acks import Refused
from service.customer.events.outbox import MAX_BYTES, MAX_EVENTS, Batch, Outbox
from service.customer.events.publisher import BATCHED, SINGLE, Mode, Publisher
from service.customer.events.window import Window
from service.nats.client import NatsClient
from service.runtime.background import background
from service.runtime.cancel import cancel

log: Final = structlog.get_logger("service.events")

PROBE_MIN_S: Final = 0.1
PROBE_MAX_S: Final = 1.0
CLOSED_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Timing:
    ack_wait_s: float = 2.0
    """Seconds without an answer after which a batch is overdue, and a stream silent."""
    late_s: float = 1.0
    """Seconds. A later acknowledgement means that events queue up in front of the stream."""


@dataclass(slots=True)
class EventStats:
    published: int = 0
    """Acknowledged by the stream."""
    retried: int = 0
    dropped: int = 0


class Events:
    """Publishes events for one task. Call `start` first, and `flush` before the connection is closed."""

    def __init__(
        self, nc: NatsClient, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES, timing: Timing = Timing()
    ) -> None:
        self.stats = EventStats()
        self.stalled: str | None = None
        """Reason the stream takes no events; None while it takes them."""
        self._nc = nc
        self._outbox = Outbox(max_events, max_bytes)
        self._publisher = Publisher(nc, self._outbox.id)
        self._ack_wait_s = timing.ack_wait_s
        self._window = Window(timing.late_s)
        self._answered = -1
        """Number of the latest acknowledged batch."""
        self._answered_s = float("-inf")
        """When the stream last answered any batch."""
        self._stalled_at = 0
        """Number of the first batch sent since the stream stalled."""
        self._sending = False
        """Whether `_send_waiting` is about to run, at the end of this turn of the event loop."""
        self._dropping = False
        self._settled = asyncio.Event()
        self._settled.set()
        self._watch: asyncio.Task[None] | None = None
        self._probe_wait_s = PROBE_MIN_S
        self._loop = asyncio.get_running_loop()

    @property
    def pending(self) -> int:
        """Events not yet acknowledged."""
        return len(self._outbox)

    @property
    def mode(self) -> Mode:
        """How the stream acknowledges events: `by the batch`, or `one by one`."""
        return self._publisher.mode

    async def start(self, *, batched: bool = False) -> None:
        """Listen for answers, and watch for overdue batches. `batched`: the stream takes batches (`allow_batched`)."""
        self._publisher.mode = BATCHED if batched else SINGLE
        log.info("events are acknowledged", mode=self.mode)
        await self._publisher.listen(self._on_answer)
        self._watch = background(self._watch_answers(), "events")

    def publish(
        self, client_ids: Sequence[str], payloads: Sequence[str], context: Mapping[str, str] | None = None
    ) -> None:
        """Publish each client's balance, now or when the stream is reachable again. Its outage raises nothing."""
        self._publish(self._outbox.add([f"{EVENT_PREFIX}{client_id}" for client_id in client_ids], payloads, context))

    def publish_once(
        self, subjects: Sequence[str], payloads: Sequence[str], ids: Sequence[str], context: Mapping[str, str] | None
    ) -> None:
        """Publish events with ids of length `ID_LENGTH`: the stream keeps one per id within its duplicate window."""
        self._publish(self._outbox.add(subjects, payloads, context, ids))

    def _publish(self, dropped: int) -> None:
        if dropped:
            self._drop(dropped)
        if not self._sending and self._outbox.waiting:
            self._sending = True
            self._settled.clear()
            self._loop.call_soon(self._send_waiting)

    async def flush(self, timeout_s: float) -> int:
        """Wait up to `timeout_s` seconds until every event is acknowledged; return how many are not.

        Return at once if the connection is closed for good: no more will be acknowledged.
        """
        deadline = self._loop.time() + timeout_s
        while not (self._settled.is_set() or self._nc.is_closed) and (left_s := deadline - self._loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, CLOSED_POLL_S)):
                    await self._settled.wait()
        return self.pending

    async def close(self) -> None:
        if self._watch:
            await cancel(self._watch)

    def _send_waiting(self) -> None:
        self._sending = False
        outbox = self._outbox
        while outbox.waiting and self.stalled is None:
            room = min(self._window.size - outbox.unacknowledged, self._publisher.batch_max, len(outbox.waiting))
            if room <= 0:
                return
            self._send(room)

    def _send(self, count: int) -> None:
        batch = self._outbox.take(count, time.monotonic())
        try:
            self._publisher.send(batch)
        except nats.errors.Error as error:
            self._take_back(batch)
            self._stall(str(error))

    def _on_answer(self, subject: str, payload: str, headers: str) -> None:
        batch = self._outbox.sent.get(self._publisher.number(subject))
        if batch is None:
            return
        self._answered_s = time.monotonic()
        answer = acks.read(payload, headers, len(batch.events))
        if isinstance(answer, Refused):
            self._refuse(batch, answer)
        elif answer is not None:
            self._store(batch, answer.count)

    def _store(self, batch: Batch, count: int) -> None:
        """Count the first `count` events of a batch as stored; the others, after a gap, are sent again."""
        self.stats.published += count
        self.stats.retried += self._outbox.stored(batch, count)
        self._answered = max(self._answered, batch.number)
        self._window.acknowledged(count, batch.sent_s, self._answered_s)
        if self.stalled is not None and batch.number >= self._stalled_at:
            self._resume()
        if self._outbox.waiting:
            self._send_waiting()
        elif not self._outbox.sent:
            self._dropping = False
            self._settled.set()

    def _refuse(self, batch: Batch, refused: Refused) -> None:
        if refused.takes_no_batches and self.mode == BATCHED:
            self._publisher.mode = SINGLE
            log.warning("events are acknowledged one by one from now on", reason=refused.reason)
        self._take_back(batch)
        self._stall(refused.reason)

    def _take_back(self, batch: Batch) -> None:
        """Queue a batch's events to be sent again. Later answers to this batch are ignored."""
        self.stats.retried += self._outbox.take_back(batch)

    async def _watch_answers(self) -> None:
        """Look for overdue batches, and probe a stalled stream."""
        while True:
            if self.stalled is None:
                await asyncio.sleep(self._ack_wait_s / 4)
                self._notice_overdue()
                self._send_waiting()
            else:
                await asyncio.sleep(self._probe_wait_s * random.uniform(0.5, 1.0))
                self._probe_wait_s = min(PROBE_MAX_S, self._probe_wait_s * 2)
                self._probe()

    def _notice_overdue(self) -> None:
        """Queue overdue batches again, and narrow the window; stall if the stream has not answered anything.

        A late batch is not lost while the stream still works on earlier ones: it answers in order.
        """
        now_s, wait_s = time.monotonic(), self._ack_wait_s
        silent = now_s - self._answered_s > wait_s
        late = [batch for batch in self._outbox.sent.values() if now_s - batch.sent_s > wait_s]
        overdue = [batch for batch in late if silent or batch.number < self._answered]
        for batch in reversed(overdue):
            self._window.narrow(batch.sent_s, now_s)
            self._take_back(batch)
        if overdue and silent:
            self._stall(f"no acknowledgement within {wait_s:g} seconds")

    def _probe(self) -> None:
        """Send only the oldest event, which may be the last probe's again."""
        if self.stalled is None or not self._nc.is_connected:
            return
        for batch in [batch for number, batch in self._outbox.sent.items() if number >= self._stalled_at]:
            self._take_back(batch)
        if self._outbox.waiting:
            self._send(1)

    def _stall(self, reason: str) -> None:
        """Hold back all events except the probe, in order."""
        if self.stalled is None:
            self._probe_wait_s = PROBE_MIN_S
            self._stalled_at = self._outbox.next_batch
            self._window.close(time.monotonic())
            log.warning("events are waiting", reason=reason, pending=self.pending)
        self.stalled = reason

    def _resume(self) -> None:
        self.stalled = None
        self._notice_overdue()
        log.info("events are flowing", pending=self.pending, dropped=self.stats.dropped)

    def _drop(self, events: int) -> None:
        self.stats.dropped += events
        if not self._dropping:
            self._dropping = True
            log.error(
                "events are being dropped", pending=self.pending, bytes=self._outbox.held_bytes, reason=self.stalled
            )
