"""Measure the queue sidecar: beside a plain nats-py pull consumer, beside an empty gRPC call, and its memory.

The sidecar and the plain consumer take turns at batches of 100 from the same durable consumer, and the server confirms
each deletion. Calls for one message are measured in turns with an empty call of the same server.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc
from nats.aio.client import Client

from benchmark.cost.queue_calls import WAIT_S, QueueCalls
from benchmark.cost.rounds import in_turns, memory_after
from benchmark.load.job import NatsTarget
from benchmark.load.transport import connected
from benchmark.peers.plain import plain_client
from service.contracts import customer
from service.contracts import queue as contract
from service.nats.client import roundtrip

BATCH: Final = 100
SHORTER_S: Final = 20
"""A visibility other than the consumer's own: it costs one more reply to the server per message."""
MESSAGES_PER_S: Final = 3_000
"""Messages per second of a step: a turn is a fixed number of messages, so that none is left for the next turn."""
CALLS_PER_S: Final = 1_000
"""Calls of each kind, per second of a step."""
TURN: Final = 200
STREAM_HOLDS: Final = 10_000
"""Messages to publish at a time: the stream discards those beyond its 10 MB."""

Take = Callable[[int], Awaitable[None]]
"""Receives and deletes a number of messages."""


@dataclass(frozen=True)
class Sidecar:
    """A sidecar's address, and the users that write to its stream and read from it."""

    listen: str
    writer: NatsTarget
    reader: NatsTarget
    pid: int


@dataclass(frozen=True)
class QueueCost:
    """Medians of the rounds' ratios, and the sidecar's memory."""

    same: float
    """Messages/s with the consumer's own visibility, relative to the plain consumer."""
    shorter: float
    delete: float
    """Calls/s that delete one message, relative to an empty call."""
    receive: float
    memory: Sequence[tuple[int, float]]
    """(messages so far, resident MiB)."""


async def measure(
    sidecar: Sidecar, *, rounds: int, step_s: float, totals: Sequence[int], say: Callable[[str], None]
) -> QueueCost:
    """Measure everything. Raises `BenchmarkError` if messages do not arrive or cannot be deleted."""
    async with (
        connected(sidecar.writer) as writer,
        _plain(sidecar.reader) as plain,
        grpc.aio.insecure_channel(sidecar.listen) as channel,
    ):
        calls = QueueCalls(channel)
        same, shorter = await _batches(
            writer, (plain, _through(calls), _through(calls, SHORTER_S)), rounds, step_s, say
        )
        delete, receive = await _calls(writer, calls, rounds, step_s, say)
        memory = await memory_after(
            totals, partial(_rate, writer, _through(calls)), sidecar.pid, "messages", say, at_a_time=STREAM_HOLDS
        )
    return QueueCost(same, shorter, delete, receive, memory)


async def _batches(
    writer: Client, turns: tuple[Take, Take, Take], rounds: int, step_s: float, say: Callable[[str], None]
) -> tuple[float, float]:
    count = max(BATCH, int(step_s * MESSAGES_PER_S) // BATCH * BATCH)
    same, shorter = [], []
    for take in turns:
        await _rate(writer, take, BATCH)
    rates = [partial(_rate, writer, take, count) for take in turns]
    async for plain, with_same, with_shorter in in_turns(rates, rounds):
        same.append(with_same / plain)
        shorter.append(with_shorter / plain)
        say(f"queue: {with_same:,.0f} and {with_shorter:,.0f} messages/s, of {plain:,.0f} of a plain consumer")
    return statistics.median(same), statistics.median(shorter)


async def _calls(
    writer: Client, calls: QueueCalls, rounds: int, step_s: float, say: Callable[[str], None]
) -> tuple[float, float]:
    """Measure the calls in short turns, so that other load on the machine affects all alike."""
    turns = max(1, int(step_s * CALLS_PER_S) // TURN)
    deletes, receives = [], []
    for _ in range(rounds):
        receive_s = delete_s = empty_s = 0.0
        for _ in range(turns):
            await _publish(writer, TURN)
            took_s, receipts = await calls.receive_one(TURN)
            receive_s += took_s
            empty_s += await calls.empty(TURN)
            delete_s += await calls.delete_one(receipts)
        deletes.append(empty_s / delete_s)
        receives.append(empty_s / receive_s)
        delete, receive, empty = (turns * TURN / total_s for total_s in (delete_s, receive_s, empty_s))
        say(f"queue: {delete:,.0f} deletes/s and {receive:,.0f} receives/s of one, of {empty:,.0f} empty calls/s")
    return statistics.median(deletes), statistics.median(receives)


async def _rate(writer: Client, take: Take, count: int) -> float:
    await _publish(writer, count)
    began = time.perf_counter()
    await take(count)
    return count / (time.perf_counter() - began)


async def _publish(writer: Client, count: int) -> None:
    for number in range(count):
        await writer.publish(f"{customer.SUBJECT}.{number}", b'{"client_id":"678","client_balance":100}')
    await roundtrip(writer)


@asynccontextmanager
async def _plain(reader: NatsTarget) -> AsyncIterator[Take]:
    nc = await plain_client(reader.servers[0], reader.creds or "", contract.INBOX_PREFIX)
    try:
        consumer = await nc.jetstream().pull_subscribe_bind(contract.CONSUMER, contract.STREAM)

        async def take(count: int) -> None:
            left = count
            while left:
                messages = await consumer.fetch(min(BATCH, left), timeout=WAIT_S)
                await asyncio.gather(*(message.ack_sync(timeout=WAIT_S) for message in messages))
                left -= len(messages)

        yield take
    finally:
        await nc.close()


def _through(calls: QueueCalls, visibility_s: int = contract.ACK_WAIT_S) -> Take:
    async def take(count: int) -> None:
        left = count
        while left:
            receipts = await calls.receive(min(BATCH, left), visibility_s)
            await calls.delete(receipts)
            left -= len(receipts)

    return take
