"""What the queue sidecar costs: messages received and deleted through it, of those of a plain nats-py pull consumer.

Both take batches of 100 of the same durable consumer, in turns, and have each deletion confirmed by the server.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc
import nats
from nats.aio.client import Client, RawCredentials
from nats.js import JetStreamContext

from benchmark.errors import BenchmarkError
from service.customer import contract as customer
from service.queue import contract
from service.queue.sqs_pb2 import SQSDeleteMessagesRequest, SQSReceiveMessageRequest
from service.queue.sqs_pb2_grpc import SQSServiceStub

BATCH: Final = 100
SHORTER_S: Final = 20
"""A visibility that the consumer does not have by itself: one word more to the server for each message."""
WAIT_S: Final = 5
MESSAGES_PER_S: Final = 3_000
"""Of a step: a turn is a number of messages, so that none is left to the next."""

Take = Callable[[int], Awaitable[None]]
"""Receives and deletes so many messages."""


@dataclass(frozen=True)
class Sidecar:
    """Where a sidecar listens, and who may write to its stream and read it."""

    nats_url: str
    listen: str
    writer_creds: str
    reader_creds: str


@dataclass(frozen=True)
class Shares:
    """Messages/s through the sidecar, of those of the plain consumer."""

    same: float
    """With the consumer's own visibility."""
    shorter: float


async def shares(sidecar: Sidecar, *, rounds: int, step_s: float, say: Callable[[str], None]) -> Shares:
    """The medians of the rounds.

    Raises `BenchmarkError` when messages do not come or cannot be deleted.
    """
    count = max(BATCH, int(step_s * MESSAGES_PER_S) // BATCH * BATCH)
    same, shorter = [], []
    async with (
        _connected(sidecar.nats_url, sidecar.writer_creds, "_INBOX_service") as writer,
        _connected(sidecar.nats_url, sidecar.reader_creds, contract.INBOX_PREFIX) as reader,
        grpc.aio.insecure_channel(sidecar.listen) as channel,
    ):
        turns = (await _plain(reader.jetstream()), _through(channel, contract.ACK_WAIT_S), _through(channel, SHORTER_S))
        for take in turns:
            await _rate(writer, take, BATCH)
        for number in range(rounds):
            order = turns[::-1] if number % 2 else turns
            rates = {take: await _rate(writer, take, count) for take in order}
            plain, with_same, with_shorter = (rates[take] for take in turns)
            same.append(with_same / plain)
            shorter.append(with_shorter / plain)
            say(f"queue: {with_same:,.0f} and {with_shorter:,.0f} messages/s, of {plain:,.0f} of a plain consumer")
    return Shares(statistics.median(same), statistics.median(shorter))


async def _rate(writer: Client, take: Take, count: int) -> float:
    for number in range(count):
        await writer.publish(f"{customer.SUBJECT}.{number}", b'{"client_id":"678","client_balance":100}')
    await writer.flush()
    began = time.perf_counter()
    await take(count)
    return count / (time.perf_counter() - began)


async def _plain(jetstream: JetStreamContext) -> Take:
    consumer = await jetstream.pull_subscribe_bind(contract.CONSUMER, contract.STREAM)

    async def take(count: int) -> None:
        left = count
        while left:
            messages = await consumer.fetch(min(BATCH, left), timeout=WAIT_S)
            await asyncio.gather(*(message.ack_sync(timeout=WAIT_S) for message in messages))
            left -= len(messages)

    return take


def _through(channel: grpc.aio.Channel, visibility_s: int) -> Take:
    stub = SQSServiceStub(channel)

    async def take(count: int) -> None:
        left = count
        while left:
            request = SQSReceiveMessageRequest(
                visibility_timeout=visibility_s, wait_time=WAIT_S, maximum_number_of_messages=min(BATCH, left)
            )
            messages = (await stub.ReceiveMessage(request)).messages
            if not messages:
                raise BenchmarkError(f"the sidecar handed out nothing in {WAIT_S} s; see that the machine is not busy")
            receipts = [message.messageID for message in messages]
            results = (await stub.DeleteMessages(SQSDeleteMessagesRequest(messageIDs=receipts))).results
            if failed := [result.error for result in results if result.code]:
                raise BenchmarkError(f"{len(failed)} messages were not deleted: {failed[0]}")
            left -= len(messages)

    return take


@asynccontextmanager
async def _connected(url: str, creds: str, inbox_prefix: str) -> AsyncIterator[Client]:
    client = await nats.connect(url, user_credentials=RawCredentials(creds), inbox_prefix=inbox_prefix)
    try:
        yield client
    finally:
        await client.close()
