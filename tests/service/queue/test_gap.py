"""Delayed NAKs and the server's expiry timer: each sets it again, so none is sent in the first 30 ms of each 200 ms."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from service.sources.jetstream.visibility import GAP_MS, GAP_PERIOD_MS, outside_gap
from tests.service.queue.conftest import Shared
from tests.support.queue.sidecar import store

STREAMS = 3
"""Loops that send delayed NAKs: together one each millisecond or so, and the timer that each sets is of 10 ms."""


async def test_whoever_waits_for_it_is_outside_the_gap() -> None:
    async def one() -> float:
        await asyncio.sleep(random.random() * GAP_PERIOD_MS / 1000)
        await outside_gap()
        return time.time() * 1000 % GAP_PERIOD_MS

    phases = await asyncio.gather(*(one() for _ in range(500)))
    assert min(phases) >= GAP_MS


async def test_a_short_visibility_ends_under_a_steady_stream_of_delayed_naks(shared: Shared) -> None:
    world, channel = shared
    stub = SQSServiceStub(channel)
    await store(world, b"watched", b"busy")
    request = pb.SQSReceiveMessageRequest(visibility_timeout=30, wait_time=5, maximum_number_of_messages=2)
    messages: dict[str, Any] = {}
    while len(messages) < 2:
        messages |= {message.messageBody: message for message in (await stub.ReceiveMessage(request)).messages}
    sent, stopping = 0, asyncio.Event()

    async def delay() -> None:
        nonlocal sent
        change = pb.SQSChangeVisibilityRequest(messageIDs=[messages["busy"].messageID], visibility_timeout=60)
        while not stopping.is_set():
            (result,) = (await stub.ChangeVisibility(change)).results
            assert result.code == 0
            sent += 1

    streams = [asyncio.create_task(delay()) for _ in range(STREAMS)]
    try:
        change = pb.SQSChangeVisibilityRequest(messageIDs=[messages["watched"].messageID], visibility_timeout=1)
        began = time.monotonic()
        assert (await stub.ChangeVisibility(change)).results[0].code == 0
        (again,) = (await stub.ReceiveMessage(request)).messages
        took_s = time.monotonic() - began
    finally:
        stopping.set()
        await asyncio.gather(*streams)
    assert (again.messageBody, again.times_received) == ("watched", 2)
    assert 0.9 < took_s < 3
    assert sent / took_s > 200, "too few to keep anything from expiring: the test would prove nothing"
    receipts = [message.messageID for message in (again, messages["busy"])]
    await stub.DeleteMessages(pb.SQSDeleteMessagesRequest(messageIDs=receipts))
