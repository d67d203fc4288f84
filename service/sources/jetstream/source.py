"""A durable pull consumer of a JetStream stream as a queue: visibility, receipts, dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Final

import nats.errors
import structlog

from service.nats.connection import Connection, confirm
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need
from service.sources.jetstream.answers import ATTEMPTS, Answers
from service.sources.jetstream.consumer import Consumer, Reader
from service.sources.jetstream.continuity import Continuity
from service.sources.jetstream.message import StreamMessage, delivered, handles
from service.sources.jetstream.pulls import GRACE_S, SHORT_S, Pull, Pulls
from service.sources.jetstream.receipt import Make, Receipt
from service.sources.jetstream.redrive import Redrive
from service.sources.jetstream.timing import Timing
from service.sources.jetstream.visibility import MS, NAK, WORKING, delayed, may_be_sent
from service.sources.jetstream.wire import Position, ack_prefix
from service.sources.source import Backlog, Done, Result, UnknownReceipt, Unreachable

log: Final = structlog.get_logger("service.sources")
_unsent: Final = Repeated(log, "answers not sent")

PORTION: Final = 250
PORTION_BYTES: Final = 2 * 1024 * 1024
ENVELOPE_BYTES: Final = 64 * 1024
"""Room for one message's subject, reply and headers, on top of the server's max_payload."""
PAUSE_S: Final = 0.02
PAUSE_MAX_S: Final = 0.5
CLOSE_S: Final = 1.0


class JetStream:
    """The messages of a stream that are not yet acknowledged at its consumer.

    `continuity` counts the messages that the stream discarded before their first delivery.
    """

    def __init__(
        self, connection: Connection, reader: Reader, *, redrive: Redrive | None = None,
        continuity: Continuity | None = None, timing: Timing = Timing(),
    ) -> None:  # fmt: skip
        self.name = reader.stream
        self._reader = reader
        self._redrive = redrive
        self._timing = timing
        self._nc = connection.nc
        self._ack_prefix = f"$JS.ACK.{reader.stream}.{reader.consumer}"
        self._consumer = Consumer(connection, reader, continuity or Continuity(), timing)
        self._pulls = Pulls(self._nc, reader.stream, reader.consumer, self._note, lambda: self.visibility_s)
        self._answers = Answers(self._nc, timing)
        self._burying: set[asyncio.Future[list[None]]] = set()
        self._stopping = False
        self._problem = ""
        self._finished: list[StreamMessage] = []
        """Messages for the next write of acknowledgements."""
        self._number = 0
        """Number of the last delivery that arrived. They arrive in order."""
        self._nc.on_lost.append(self._on_lost)

    @property
    def visibility_s(self) -> float:
        return self._consumer.ack_wait_s

    @property
    def portion(self) -> tuple[int, int]:
        return PORTION, max(PORTION_BYTES, self._nc.max_payload + ENVELOPE_BYTES)

    def needs(self) -> Sequence[Need]:
        return (*self._consumer.needs(), *((self._redrive.letters.need(),) if self._redrive else ()))

    async def start(self) -> None:
        await self._answers.start()
        self._pulls.start()
        try:
            await self.backlog()  # notes the consumer's position before this process advances it
        except Unreachable as error:
            log.warning("what was discarded before now is not counted", error=str(error))
        await confirm(self._nc)

    async def receive(self, limit: int, max_bytes: int, visibility_s: float, wait_s: float) -> list[StreamMessage]:
        deadline = time.monotonic() + wait_s
        pause_s = PAUSE_S
        while not self._stopping:
            left_s = max(0.0, deadline - (asked_s := time.monotonic()))
            if self._nc.is_connected:
                messages, self._problem = await self._pull(limit, max_bytes, visibility_s, left_s)
                if messages or (not self._problem and left_s == 0):
                    return messages
            else:
                self._problem = "not connected to NATS"
            if time.monotonic() >= deadline:
                break
            if self._problem or time.monotonic() - asked_s < SHORT_S:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
        if self._problem:
            raise Unreachable(f"{self._problem}; call again")
        return []

    def acknowledge(self, messages: Sequence[StreamMessage]) -> None:
        if not self._finished:
            asyncio.get_running_loop().call_later(self._timing.acknowledge_s, self._acknowledge)
        self._finished += messages

    def _acknowledge(self) -> None:
        finished, self._finished = self._finished, []
        self._post(self._consumer.own(finished), b"")

    def extend(self, messages: Sequence[StreamMessage]) -> None:
        if self._nc.is_connected:  # else the server redelivers them anyway
            self._post(self._consumer.own(messages), WORKING)

    def give_back(self, messages: Sequence[StreamMessage], delay_s: float = 0.0) -> None:
        if self._nc.is_connected:  # sent later, a NAK could take the message from its next receiver
            self._post(self._consumer.own(messages), delayed(delay_s))

    async def settle(self) -> None:
        self._acknowledge()
        await self._pulls.settle()
        await confirm(self._nc)

    def receipt(self, message: StreamMessage) -> str:
        return self._consumer.receipts.text(Receipt.of(message))

    async def delete(self, given: Sequence[str]) -> list[Result]:
        return await self._answer(given, lambda receipt: (b"", receipt), attempts=ATTEMPTS)

    async def change_visibility(self, given: Sequence[str], visibility_s: float) -> list[Result]:
        with contextlib.suppress(ServiceError):  # `_answer` looks too, and reports the error
            await self._consumer.look_again()  # the consumer's ack_wait may have been edited
        payload = WORKING if visibility_s == self._consumer.ack_wait_s else delayed(visibility_s)
        await may_be_sent(payload)

        def make(receipt: Receipt) -> tuple[bytes, Receipt]:
            now_ms = int(time.time() * MS)
            if receipt.deadline_ms <= now_ms:
                raise UnknownReceipt("its visibility has ended, and another may have it; receive it again")
            return payload, receipt.until(now_ms + int(visibility_s * MS))

        return await self._answer(given, make, attempts=1)

    def release(self, receipts: Sequence[str]) -> None:
        if self._nc.is_connected:  # as for `give_back`
            self._post([own.subject(self._ack_prefix) for own in self._consumer.own_receipts(receipts)], NAK)

    def key(self, receipt: str) -> str:
        return str(self._consumer.receipts.parse(receipt).sequence)

    async def backlog(self) -> Backlog:
        return await self._consumer.backlog()

    async def take_no_more(self) -> None:
        self._stopping = True
        self._pulls.give_up()

    def problem(self) -> str:
        return self._problem if self._nc.is_connected else "not connected"

    async def remark(self) -> str:
        return await self._consumer.remark_now()

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):  # do not wait longer for a silent server
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*self._burying)
                await self._pulls.settle()
        self._pulls.close()

    def _note(self, position: Position) -> None:
        times_received, sequence, number, _ = position
        if number <= self._number:  # the numbers began again: the consumer was recreated
            self._consumer.is_gone()
        self._number = number
        self._consumer.continuity.delivered(number, sequence, again=times_received > 1)

    def _on_lost(self) -> None:
        """End pulls and answers in flight: the server has forgotten the pulls, may have missed the answers."""
        self._pulls.give_up()
        self._answers.give_up()

    async def _pull(
        self, limit: int, max_bytes: int, visibility_s: float, wait_s: float
    ) -> tuple[list[StreamMessage], str]:
        """Pull once; return the messages, and why it failed ('' if it did not)."""
        newest = self._consumer.sequence
        wait_s = min(wait_s, self.visibility_s / 3)  # what comes last can still be handed out
        limit, max_bytes, wait_s = self._consumer.bounds.within(limit, max_bytes, wait_s)
        try:
            async with self._pulls.pull(limit, max_bytes, wait_s) as pull:
                # The server ends each pull with a status, even an empty one: silence means a dead connection.
                await pull.wait(max(wait_s, SHORT_S) + GRACE_S, min(self._timing.linger_max_s, self.visibility_s / 3))
            await self._consumer.heed(pull)
            try:
                messages = await self._accept(pull, visibility_s, newest)
            except ServiceError:  # a NAK would use up one of the few deliveries that a message has
                raise
            except BaseException:  # cancelled, for example: no client will get them
                self._pulls.give_back(handles(pull.messages))
                raise
            if pull.exceeds_max_bytes and not messages:
                return await self._pull(1, max_bytes, visibility_s, 0.0)  # a pull of one has no limit in bytes
            return messages, self._why(pull)
        except nats.errors.Error as error:
            return [], str(error) or type(error).__name__
        except ServiceError as error:
            return [], error.problem

    def _why(self, pull: Pull) -> str:
        if not pull.is_refused:
            return "" if pull.ended or pull.messages or self._stopping else "NATS does not answer"
        return f"consumer {self._reader.consumer} of {self.name}: {pull.said}"

    async def _accept(self, pull: Pull, visibility_s: float, newest: int) -> list[StreamMessage]:
        """Return the messages to hand out; bury those received too often. Raises `ServiceError`."""
        if not (arrived := pull.messages):
            return []
        until_ms = int((time.time() - (time.monotonic() - pull.since_s) + visibility_s) * MS)
        consumer = await self._consumer.recognise([one[-1][2] for one in arrived], newest)
        if time.monotonic() - pull.asked_s >= self.visibility_s:
            return []  # it took so long that another client may have them by now
        self._ack_prefix = ack_prefix(arrived[-1][1])
        messages = delivered(arrived, consumer, until_ms)
        dead: Sequence[tuple[StreamMessage, str]] = ()
        if redrive := self._redrive:
            messages, dead = redrive.split(messages)
        if messages and visibility_s != self.visibility_s:
            messages = await self._hide(messages, visibility_s, pull.asked_s)
        if redrive and dead:
            burying = asyncio.gather(*(self._bury(redrive, *one) for one in dead))
            self._burying.add(burying)
            burying.add_done_callback(self._burying.discard)
            if not messages:  # messages to hand out do not wait for dead letters
                await asyncio.shield(burying)
        return messages

    async def _hide(self, messages: list[StreamMessage], visibility_s: float, asked_s: float) -> list[StreamMessage]:
        """Set another visibility timeout than the consumer's; return the messages that may be handed out.

        One confirmed too late is left alone. A shorter timeout that is lost only delays redelivery.
        """
        payload = delayed(visibility_s)
        await may_be_sent(payload)
        if visibility_s > self.visibility_s:
            confirmed = await self._answers.send([(message.handle, payload) for message in messages], attempts=1)
            if time.monotonic() - asked_s >= self.visibility_s:
                return []
            answered = list(zip(messages, confirmed, strict=True))
            self._pulls.give_back([message.handle for message, done in answered if not done])
            return [message for message, done in answered if done]
        if self._nc.is_connected:
            self._post(self._consumer.own(messages), payload)
        return messages

    def _post(self, subjects: Sequence[str], payload: bytes) -> None:
        try:
            self._nc.post_each(subjects, payload)
        except nats.errors.Error as error:
            _unsent.warning("", error=str(error) or type(error).__name__)

    async def _bury(self, redrive: Redrive, message: StreamMessage, reason: str) -> None:
        """Keep the dead letter, then end its message: a stop in between leaves it in both places, never in neither."""
        kept = await redrive.keep(message, f"{message.consumer}.{message.sequence}", reason)
        if kept and self._consumer.own([message]):
            await self._answers.send([(message.handle, b"+TERM")], ATTEMPTS)

    async def _answer(self, given: Sequence[str], make: Make, attempts: int) -> list[Result]:
        results: list[Result] = [Unreachable("not confirmed by NATS in time; call again")] * len(given)
        try:
            await self._consumer.look_again()
        except ServiceError as error:
            return [Unreachable(f"{error.problem}; call again")] * len(given)
        sent: list[tuple[int, Receipt, Receipt, bytes]] = []
        for number, text in enumerate(given):
            try:
                receipt = self._consumer.receipts.parse(text)
                payload, new = make(receipt)
            except UnknownReceipt as error:
                results[number] = error
                continue
            sent.append((number, receipt, new, payload))
        answers = [(receipt.subject(self._ack_prefix), payload) for _, receipt, _, payload in sent]
        confirmed = await self._answers.send(answers, attempts)
        # The server ignores an acknowledgement of a sequence that was never delivered: tell that from a lost reply.
        newest = -1 if all(confirmed) else await self._consumer.last_delivered()
        for (number, receipt, new, _), done in zip(sent, confirmed, strict=True):
            if done:
                results[number] = Done(given[number] if new is receipt else self._consumer.receipts.text(new))
            elif 0 <= newest < receipt.sequence:
                results[number] = UnknownReceipt("no message with this receipt was ever received from this queue")
        return results
