"""Queues of moto's SQS, behind a proxy that can answer instead, and the source that reads one."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from service.sources.source import Result
from service.sources.sqs.calls import Timing
from service.sources.sqs.message import QueueMessage
from service.sources.sqs.source import Sqs
from tests.support.dynamodb.faulty import FaultyDynamoDB
from tests.support.world import eventually

RESPONSE_BYTES = 3_500_000
HIDDEN_S = 3600


@dataclass
class Queue:
    """A queue of moto's, with a dead-letter queue."""

    sqs: Any
    proxy: FaultyDynamoDB
    name: str = field(default_factory=lambda: f"sqs-{uuid.uuid4().hex[:12]}")
    urls: dict[str, str] = field(default_factory=dict)

    def make(self) -> None:
        self.urls["queue"] = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]
        self.urls["dead"] = self.sqs.create_queue(QueueName=f"{self.name}-dead")["QueueUrl"]
        self.receive_at_most(3)

    def receive_at_most(self, times: int) -> None:
        get = self.sqs.get_queue_attributes
        arn = get(QueueUrl=self.urls["dead"], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": times})
        self.sqs.set_queue_attributes(QueueUrl=self.urls["queue"], Attributes={"RedrivePolicy": redrive})

    async def send(self, count: int, body: str = "body", **attributes: Any) -> None:
        for _ in range(count):
            await asyncio.to_thread(
                self.sqs.send_message, QueueUrl=self.urls["queue"], MessageBody=body, MessageAttributes=attributes
            )

    async def counts(self, queue: str = "queue") -> tuple[int, int]:
        """Return the numbers of visible and of invisible messages."""
        get = self.sqs.get_queue_attributes
        found = (await asyncio.to_thread(get, QueueUrl=self.urls[queue], AttributeNames=["All"]))["Attributes"]
        return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])

    async def until_all_are_visible(self, count: int) -> None:
        async def are_visible() -> bool:
            return await self.counts() == (count, 0)

        await eventually(are_visible, what=f"{count} visible messages")

    def called(self, action: str) -> int:
        return [name for name, _ in self.proxy.calls].count(action)


@asynccontextmanager
async def reading(queue: Queue, *, timing: Timing = Timing()) -> AsyncIterator[Sqs]:
    source = Sqs(queue.name, "QUEUE", timing=timing)
    for need in source.needs():
        await need.look()
    try:
        yield source
    finally:
        queue.proxy.fault = None
        await source.close()


async def receive(
    source: Sqs, limit: int = 10, visibility_s: float = HIDDEN_S, wait_s: float = 0
) -> list[QueueMessage]:
    return await source.receive(limit, RESPONSE_BYTES, visibility_s, wait_s)


def kinds(results: list[Result]) -> list[type[Result]]:
    return [type(result) for result in results]
