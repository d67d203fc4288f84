"""A durable pull consumer of a JetStream stream as a queue: visibility, receipts, dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import nats.errors
import structlog
from nats.js.api import AckPolicy
from nats.js.errors import APIError, NotFoundError

from service.runtime import jetstream, permissions
from service.runtime.connection import Connection, confirm
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need
from service.sources import receipt as receipts
from service.sources.answers import Answers
from service.sources.pulls import NAK, NS, Delivery, Pull, Pulls
from service.sources.receipt import Receipt
from service.sources.source import Done, Message, Result, Unavailable, UnknownReceipt
from service.sources.wire import ack_subject, parse_headers

log: Final = structlog.get_logger("service.sources")
_kept: Final = Repeated(log, "dead letter not kept; the message comes again")

MS: Final = 1000
DEAD_S: Final = 5.0
PAUSE_S: Final = 0.02
GRACE_S: Final = 2.0
POLL_S: Final = 0.25
GAP_PERIOD_MS: Final = 200
GAP_MS: Final = 30
"""A delayed NAK sets the consumer's expiry timer to 10 ms. With one every 3 ms nothing ever expires. So none is sent in
the first 30 ms of each 200 ms of wall clock: the same gap for all sidecars."""


Make = Callable[[Receipt], tuple[bytes, Receipt]]


@dataclass(frozen=True)
class Names:
    """Who reads what, and where to the messages go that are received too often."""

    user: str
    stream: str
    consumer: str
    dead_stream: str
    dead_subject: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class JetStream:
    """The messages of a stream that `consumer` has not seen acknowledged."""

    def __init__(self, connection: Connection, names: Names, max_deliver: int) -> None:
        self.name = names.stream
        self.dead_letters = 0
        self._names = names
        self._connection = connection
        self._nc = connection.nc
        self._max_deliver = max_deliver
        self._ack_prefix = f"$JS.ACK.{names.stream}.{names.consumer}"
        self._consumer_id = 0
        self._ack_wait_s = 30.0
        self._pulls = Pulls(self._nc, names.stream, names.consumer)
        self._answers = Answers(self._nc)
        self._stopping = asyncio.Event()

    def needs(self) -> Sequence[Need]:
        names = self._names
        return (
            Need("permissions", self._look_at_permissions, at_start=False),
            Need(f"stream {names.stream}", lambda: self._look_at_stream(names.stream)),
            Need(f"consumer {names.consumer} of {names.stream}", self._look_at_consumer),
            Need(f"stream {names.dead_stream}", lambda: self._look_at_stream(names.dead_stream)),
        )

    async def start(self) -> None:
        await self._answers.start()
        await confirm(self._nc)

    async def receive(self, limit: int, visibility_s: int, wait_s: float) -> list[Message]:
        deadline = time.monotonic() + wait_s
        problem = ""
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            if self._nc.is_connected:
                problem = ""
                messages, refused = await self._pull(limit, visibility_s, left_s)
                if messages or (not refused and left_s == 0):
                    return messages
                problem = refused
            else:
                problem = "not connected to NATS"
            if time.monotonic() >= deadline or self._stopping.is_set():
                break
            await asyncio.sleep(PAUSE_S)
        if problem:
            raise Unavailable(f"{problem}; call again")
        return []

    async def delete(self, given: Sequence[str]) -> list[Result]:
        return await self._answer(given, lambda receipt: (b"", receipt))

    async def change_visibility(self, given: Sequence[str], visibility_s: int) -> list[Result]:
        until_ms = int(time.time() * MS) + visibility_s * MS
        payload = self._visibility(visibility_s) or b"+WPI"
        if payload.startswith(b"-NAK {"):
            await outside_gap()
        return await self._answer(given, lambda receipt: (payload, receipt.until(until_ms)))

    def key(self, receipt: str) -> str:
        return str(receipts.parse(receipt, self._consumer_id).sequence)

    async def give_back(self, messages: Sequence[Message]) -> None:
        await self.change_visibility([message.receipt for message in messages], 0)

    async def backlog(self) -> int:
        try:
            info = await self._connection.jetstream.consumer_info(self._names.stream, self._names.consumer)
        except (nats.errors.Error, APIError) as error:
            raise Unavailable(f"the consumer cannot be read ({error}); call again") from None
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def take_no_more(self) -> None:
        self._stopping.set()

    def problem(self) -> str:
        return "" if self._nc.is_connected else "not connected"

    async def close(self) -> None:
        await self._pulls.settle()

    async def _pull(self, limit: int, visibility_s: int, wait_s: float) -> tuple[list[Message], str]:
        """What one pull brought, and why the server refused it, if it did."""
        reconnects = self._nc.stats["reconnects"]
        received_ms = int(time.time() * MS)
        try:
            async with self._pulls.pull(limit, wait_s) as pull:
                until = time.monotonic() + max(wait_s, POLL_S) + GRACE_S
                while not pull.ended and not self._stopping.is_set() and time.monotonic() < until:
                    if self._nc.stats["reconnects"] != reconnects or not self._nc.is_connected:
                        break  # the server has forgotten it
                    await self._changed(pull)
                deliveries = pull.deliveries
        except nats.errors.Error as error:
            return [], str(error) or type(error).__name__
        messages = await self._accept(deliveries, visibility_s, received_ms)
        status = pull.status
        if status.startswith(b"503") or b"Deleted" in status:
            return messages, f"the consumer answers: {status.decode(errors='replace')}"
        return messages, ""

    async def _changed(self, pull: Pull) -> None:
        pull.changed.clear()
        if pull.ended:
            return
        waits = [asyncio.create_task(pull.changed.wait()), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait(waits, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def _accept(self, deliveries: Sequence[Delivery], visibility_s: int, received_ms: int) -> list[Message]:
        """The messages to hand out. Those received too often become dead letters."""
        until_ms = received_ms + visibility_s * MS
        messages, dead, naks = [], [], []
        visibility = self._visibility(visibility_s)
        for delivery in deliveries:
            receipt = self._receipt(delivery[1], until_ms)
            if receipt.delivered > self._max_deliver:
                dead.append((delivery, receipt))
                continue
            messages.append(_message(delivery, receipt))
            if visibility is not None:
                naks.append(delivery[1].decode())
        if visibility is not None and naks:
            if visibility != NAK:
                await outside_gap()
            for subject in naks:
                self._nc.post(subject, visibility)
        if dead:
            await asyncio.gather(*(self._bury(delivery, receipt) for delivery, receipt in dead))
        return messages

    def _visibility(self, visibility_s: int) -> bytes | None:
        """What tells the server; None: it is the consumer's own."""
        if visibility_s == self._ack_wait_s:
            return None
        return b'-NAK {"delay":%d}' % (visibility_s * NS) if visibility_s else NAK

    def _receipt(self, reply: bytes, until_ms: int) -> Receipt:
        prefix, delivered, sequence, number, time_ns = ack_subject(reply)
        self._ack_prefix = prefix
        return Receipt(self._consumer_id, delivered, sequence, number, time_ns, until_ms)

    async def _bury(self, delivery: Delivery, receipt: Receipt) -> None:
        """Kept first, ended then: a stop in between leaves it in both places, never in none."""
        subject, _, data, headers = delivery
        kept = {
            "Nats-Msg-Id": f"{self._consumer_id}.{receipt.sequence}",
            "Queue-Reason": f"received {receipt.delivered - 1} times and not deleted",
            "Queue-Subject": subject.decode("ascii", "backslashreplace")[:1024],
            "Queue-Sequence": str(receipt.sequence),
        }
        own = {name: value for name, value in parse_headers(headers) if not name.startswith("Nats-")}
        try:
            await self._connection.jetstream.publish(
                f"{self._names.dead_subject}.{self._names.stream}", data, timeout=DEAD_S, headers={**own, **kept}
            )
        except (nats.errors.Error, APIError) as error:
            _kept.warning(str(receipt.sequence), error=str(error) or type(error).__name__)
            return
        self.dead_letters += 1
        log.warning("dead letter", stream=self._names.stream, sequence=receipt.sequence, received=receipt.delivered - 1)
        await self._answers.send([(receipt.subject(self._ack_prefix), b"+TERM")])

    async def _answer(self, given: Sequence[str], make: Make) -> list[Result]:
        results: list[Result] = [Unavailable("not confirmed by NATS in time; call again") for _ in given]
        sent: list[tuple[int, Receipt, Receipt, bytes]] = []
        for number, text in enumerate(given):
            try:
                receipt = receipts.parse(text, self._consumer_id)
            except UnknownReceipt as error:
                results[number] = error
                continue
            payload, new = make(receipt)
            sent.append((number, receipt, new, payload))
        confirmed = await self._answers.send(
            [(receipt.subject(self._ack_prefix), payload) for _, receipt, _, payload in sent]
        )
        newest = -1 if all(confirmed) else await self._newest()
        for (number, receipt, new, _), done in zip(sent, confirmed, strict=True):
            if done:
                results[number] = Done(str(new))
            elif 0 <= newest < receipt.sequence:
                results[number] = UnknownReceipt("no message with this receipt was ever received from this queue")
        return results

    async def _newest(self) -> int:
        """The last sequence that was delivered to anyone; -1 when it cannot be told."""
        try:
            info = await self._connection.jetstream.consumer_info(self._names.stream, self._names.consumer)
        except (nats.errors.Error, APIError):
            return -1
        return info.delivered.stream_seq if info.delivered else -1

    async def _look_at_permissions(self) -> None:
        self._connection.jetstream  # noqa: B018  raises Skipped without a connection
        await permissions.look(self._nc, self._names.user, self._names.publish, self._names.subscribe, answers=False)

    async def _look_at_stream(self, stream: str) -> None:
        await jetstream.check_stream(self._connection.jetstream, stream, ())

    async def _look_at_consumer(self) -> str:
        what = f"consumer {self._names.consumer} of stream {self._names.stream}"
        try:
            info = await self._connection.jetstream.consumer_info(self._names.stream, self._names.consumer)
        except NotFoundError:
            raise ServiceError(f"{what} does not exist", jetstream.PROVISION) from None
        except (nats.errors.Error, APIError) as error:
            raise jetstream.explain(what, error) from None
        if info.config.deliver_subject or info.config.ack_policy != AckPolicy.EXPLICIT:
            raise ServiceError(
                f"{what} is no pull consumer with explicit acknowledgements",
                "correct it with `python -m control_plane create`",
            )
        self._ack_wait_s = float(info.config.ack_wait or self._ack_wait_s)
        self._consumer_id = int(info.created.timestamp() * 1_000_000)
        return f"backlog {(info.num_pending or 0) + (info.num_ack_pending or 0)}"


def _message(delivery: Delivery, receipt: Receipt) -> Message:
    subject, _, data, headers = delivery
    return Message(
        receipt=str(receipt),
        id=str(receipt.sequence),
        data=data,
        subject=subject.decode(errors="replace"),
        headers=parse_headers(headers),
        times_received=receipt.delivered,
        sent_ms=receipt.time_ns // 1_000_000,
    )


async def outside_gap() -> None:
    """Return when a delayed NAK may be sent. A sleep may end early by the wall clock, or so late that it is in the next
    gap.
    """
    while (into_ms := time.time() * MS % GAP_PERIOD_MS) < GAP_MS:
        await asyncio.sleep((GAP_MS - into_ms) / MS)
