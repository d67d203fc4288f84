"""A durable pull consumer of a JetStream stream as a queue: visibility, receipts, dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import nats.errors

from service.runtime import jetstream, permissions
from service.runtime.connection import Connection, confirm
from service.runtime.errors import ServiceError
from service.runtime.role import Need
from service.sources.answers import Answers
from service.sources.consumer import Consumer
from service.sources.dead_letters import DeadLetters
from service.sources.pulls import PULL_BYTES, SHORT_S, Delivery, Pull, Pulls, size
from service.sources.receipt import Receipt
from service.sources.source import Done, Message, Result, Unavailable, UnknownReceipt
from service.sources.visibility import MS, WORKING, delayed, may_be_sent
from service.sources.wire import ack_subject, parse_headers

PAUSE_S: Final = 0.02
PAUSE_MAX_S: Final = 0.5
GRACE_S: Final = 2.0

Make = Callable[[Receipt], tuple[bytes, Receipt]]
"""What tells the server, and the receipt from then on. Raises `UnknownReceipt`."""


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
        self._names = names
        self._connection = connection
        self._nc = connection.nc
        self._max_deliver = max_deliver
        self._ack_prefix = f"$JS.ACK.{names.stream}.{names.consumer}"
        self._consumer = Consumer(connection, names.stream, names.consumer)
        self._pulls = Pulls(self._nc, names.stream, names.consumer)
        self._answers = Answers(self._nc)
        self._dead = DeadLetters(connection, names.stream, names.dead_subject)
        self._burying: set[asyncio.Future[list[None]]] = set()
        self._stopping = False
        self._problem = ""
        self._nc.on_grants_ended = self._pulls.give_up  # the server has forgotten them

    @property
    def dead_letters(self) -> int:
        return self._dead.kept

    @property
    def dead_letters_refused(self) -> int:
        return self._dead.refused

    def needs(self) -> Sequence[Need]:
        names = self._names
        return (
            Need("permissions", self._look_at_permissions, at_start=False),
            Need(f"stream {names.stream}", lambda: self._look_at_stream(names.stream)),
            Need(f"consumer {names.consumer} of {names.stream}", self._consumer.look),
            Need(f"stream {names.dead_stream}", lambda: self._look_at_stream(names.dead_stream)),
        )

    async def start(self) -> None:
        await self._answers.start()
        await confirm(self._nc)

    async def receive(self, limit: int, visibility_s: int, wait_s: float) -> list[Message]:
        deadline = time.monotonic() + wait_s
        pause_s = PAUSE_S
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            if self._nc.is_connected:
                messages, self._problem = await self._pull(limit, visibility_s, left_s)
                if messages or (not self._problem and left_s == 0):
                    return messages
            else:
                self._problem = "not connected to NATS"
            problem = self._problem
            if time.monotonic() >= deadline or self._stopping:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        if problem:
            raise Unavailable(f"{problem}; call again")
        return []

    async def delete(self, given: Sequence[str]) -> list[Result]:
        return await self._answer(given, lambda receipt: (b"", receipt))

    async def change_visibility(self, given: Sequence[str], visibility_s: int) -> list[Result]:
        payload = WORKING if visibility_s == self._consumer.ack_wait_s else delayed(visibility_s)
        await may_be_sent(payload)
        now_ms = int(time.time() * MS)

        def make(receipt: Receipt) -> tuple[bytes, Receipt]:
            if receipt.deadline_ms <= now_ms:
                raise UnknownReceipt("its visibility has ended, and another may have it; receive it again")
            return payload, receipt.until(now_ms + visibility_s * MS)

        return await self._answer(given, make)

    def key(self, receipt: str) -> str:
        return str(self._consumer.receipts.parse(receipt).sequence)

    async def give_back(self, messages: Sequence[Message]) -> None:
        await self.change_visibility([message.receipt for message in messages], 0)

    async def backlog(self) -> int:
        return await self._consumer.backlog()

    async def take_no_more(self) -> None:
        self._stopping = True
        self._pulls.give_up()

    def problem(self) -> str:
        return self._problem if self._nc.is_connected else "not connected"

    async def close(self) -> None:
        await asyncio.gather(*self._burying)
        await self._pulls.settle()

    async def _pull(self, limit: int, visibility_s: int, wait_s: float) -> tuple[list[Message], str]:
        """What one pull brought, and why it failed, if it did."""
        newest = self._consumer.sequence
        try:
            async with self._pulls.pull(limit, wait_s) as pull:
                # The server ends it with a status, also when nothing came: silence is a connection that is none.
                await asyncio.wait([pull.done], timeout=max(wait_s, SHORT_S) + GRACE_S)
            if pull.is_refused:
                self._consumer.is_gone()
            messages = await self._accept(pull.deliveries, visibility_s, newest)
            if pull.met_a_giant and not messages:
                return await self._pull(1, visibility_s, 0.0)  # is not bounded in bytes
            return messages, self._why(pull)
        except nats.errors.Error as error:
            return [], str(error) or type(error).__name__
        except ServiceError as error:
            return [], error.problem

    def _why(self, pull: Pull) -> str:
        if pull.is_refused:
            said = pull.status.decode(errors="replace").replace("503", "nobody is there (503)")
            return f"consumer {self._names.consumer} of {self._names.stream}: {said}"
        return "" if pull.ended or self._stopping else "NATS does not answer"

    async def _accept(self, deliveries: Sequence[Delivery], visibility_s: int, newest: int) -> list[Message]:
        """The messages to hand out. Those received too often become dead letters. Raises `ServiceError`."""
        until_ms = int(time.time() * MS) + visibility_s * MS
        receipts = [self._receipt(delivery[1], until_ms) for delivery in deliveries]
        await self._consumer.recognise(receipts, newest)
        alive: list[tuple[Delivery, Receipt]] = []
        dead: list[tuple[Delivery, Receipt, str]] = []
        for delivery, receipt in zip(deliveries, receipts, strict=True):
            if receipt.delivered > self._max_deliver:
                dead.append((delivery, receipt, f"received {receipt.delivered - 1} times and not deleted"))
            elif size(delivery) > PULL_BYTES:
                dead.append((delivery, receipt, f"of {size(delivery)} bytes, more than one gRPC response carries"))
            else:
                alive.append((delivery, receipt))
        if alive and visibility_s != self._consumer.ack_wait_s:
            alive = await self._hide(alive, visibility_s)
        if dead:
            burying = asyncio.gather(*(self._bury(*one) for one in dead))
            self._burying.add(burying)
            burying.add_done_callback(self._burying.discard)
            if not alive:  # what can be handed out does not wait for them
                await asyncio.shield(burying)
        return [_message(delivery, receipt, self._consumer.receipts.text(receipt)) for delivery, receipt in alive]

    async def _hide(self, alive: list[tuple[Delivery, Receipt]], visibility_s: int) -> list[tuple[Delivery, Receipt]]:
        """Tell the server until when they are invisible; returns those that may be handed out.

        One whose longer visibility is not confirmed could reach another client too early. Losing a shorter one delays.
        """
        payload = delayed(visibility_s)
        await may_be_sent(payload)
        subjects = [delivery[1].decode() for delivery, _ in alive]
        if visibility_s > self._consumer.ack_wait_s:
            confirmed = await self._answers.send([(subject, payload) for subject in subjects])
            self._pulls.give_back([delivery for (delivery, _), done in zip(alive, confirmed, strict=True) if not done])
            return [one for one, done in zip(alive, confirmed, strict=True) if done]
        if self._nc.is_connected:
            for subject in subjects:
                self._nc.post(subject, payload)
        return alive

    def _receipt(self, reply: bytes, until_ms: int) -> Receipt:
        prefix, delivered, sequence, number, time_ns = ack_subject(reply)
        self._ack_prefix = prefix
        return Receipt(delivered, sequence, number, time_ns, until_ms)

    async def _bury(self, delivery: Delivery, receipt: Receipt, reason: str) -> None:
        """Kept first, ended then: a stop in between leaves it in both places, never in none."""
        if await self._dead.keep(delivery, receipt.sequence, f"{self._consumer.id}.{receipt.sequence}", reason):
            await self._answers.send([(receipt.subject(self._ack_prefix), b"+TERM")])

    async def _answer(self, given: Sequence[str], make: Make) -> list[Result]:
        results: list[Result] = [Unavailable("not confirmed by NATS in time; call again") for _ in given]
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
        confirmed = await self._answers.send(answers)
        newest = -1 if all(confirmed) else await self._consumer.last_delivered()
        for (number, receipt, new, _), done in zip(sent, confirmed, strict=True):
            if done:
                results[number] = Done(given[number] if new is receipt else self._consumer.receipts.text(new))
            elif 0 <= newest < receipt.sequence:
                results[number] = UnknownReceipt("no message with this receipt was ever received from this queue")
        return results

    async def _look_at_permissions(self) -> None:
        self._connection.jetstream  # noqa: B018  raises Skipped without a connection
        await permissions.look(self._nc, self._names.user, self._names.publish, self._names.subscribe, answers=False)

    async def _look_at_stream(self, stream: str) -> None:
        await jetstream.check_stream(self._connection.jetstream, stream, ())


def _message(delivery: Delivery, receipt: Receipt, text: str) -> Message:
    subject, _, data, headers = delivery
    return Message(
        receipt=text,
        id=str(receipt.sequence),
        data=data,
        subject=subject.decode(errors="replace"),
        headers=parse_headers(headers),
        times_received=receipt.delivered,
        sent_ms=receipt.time_ns // 1_000_000,
    )
