"""The sidecar on an SQS queue (moto's server): the same client, the same errors."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from typing import Any

import boto3
from grpc import StatusCode

from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from service.runtime.cancel import cancel
from tests.support.dynamodb.faulty import faulty_dynamodb
from tests.support.queue.sidecar import OriginalClient, started
from tests.support.world import World, eventually


def aws(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL_SQS": url,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }


def client(url: str) -> Any:
    return boto3.client("sqs", endpoint_url=url, region_name="eu-central-1", aws_access_key_id="test",
                        aws_secret_access_key="test")  # fmt: skip


async def test_the_original_client_works_on_sqs(world: World, moto: str) -> None:
    sqs = client(moto)
    queue = sqs.create_queue(QueueName="orders")["QueueUrl"]
    for number in range(23):
        sqs.send_message(QueueUrl=queue, MessageBody=f"body {number}")
    async with started(world, {"QUEUE": "sqs:orders", **aws(moto)}) as (_, channel):
        original, stub = OriginalClient(channel), SQSServiceStub(channel)
        for message in await original.receive(visibility_s=30):
            await original.delete(message.messageID)
        messages: list[Any] = []
        while len(messages) < 18:
            request = pb.SQSReceiveMessageRequest(visibility_timeout=30, wait_time=1, maximum_number_of_messages=100)
            messages += (await stub.ReceiveMessage(request)).messages
        assert len({message.id for message in messages}) == 18
        assert all(message.times_received == 1 and message.time_sent_ms for message in messages)
        receipts = [*(message.messageID for message in messages), "forged"]
        results = (await stub.DeleteMessages(pb.SQSDeleteMessagesRequest(messageIDs=receipts))).results
        assert [result.code for result in results] == [0] * 18 + [StatusCode.NOT_FOUND.value[0]]
    assert messages_of(sqs, queue) == 0


def messages_of(sqs: Any, queue: str) -> int:
    found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    return int(found["ApproximateNumberOfMessages"]) + int(found["ApproximateNumberOfMessagesNotVisible"])


async def test_what_is_received_too_often_is_in_the_dead_letter_queue_and_is_handled_there(
    world: World, moto: str
) -> None:
    sqs = client(moto)
    dead = sqs.create_queue(QueueName="bills-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"})
    queue = sqs.create_queue(QueueName="bills", Attributes={"RedrivePolicy": redrive})["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="poison")
    sqs.send_message(QueueUrl=queue, MessageBody="good")
    seen: Counter[str] = Counter()
    async with started(world, {"QUEUE": "sqs:bills", **aws(moto)}) as (_, channel):
        original = OriginalClient(channel)
        for _ in range(4):
            for message in await original.receive(visibility_s=0, wait_s=0):
                seen[message.messageBody] += 1
                if message.messageBody == "good":
                    await original.delete(message.messageID)
    assert seen == {"poison": 2, "good": 1}
    assert (messages_of(sqs, queue), messages_of(sqs, dead)) == (0, 1)
    async with started(world, {"QUEUE": "sqs:bills-dead", **aws(moto)}) as (_, channel):
        original = OriginalClient(channel)
        (message,) = await original.receive(visibility_s=30)
        assert message.messageBody == "poison"
        await original.delete(message.messageID)
    assert messages_of(sqs, dead) == 0


async def test_a_silent_sqs_does_not_delay_the_stop_of_a_sidecar(world: World, moto: str) -> None:
    queue = client(moto).create_queue(QueueName="silent")["QueueUrl"]
    variable = "AWS_ENDPOINT_URL_SQS"
    async with faulty_dynamodb({variable: moto}, variable) as proxy:
        env = {"QUEUE": "sqs:silent", **aws(proxy.env[variable]), "SHUTDOWN_TIMEOUT": "2"}
        async with started(world, env) as (task, channel):
            held, go_on = asyncio.Event(), asyncio.Event()

            async def hold(_action: str, _call: dict[str, Any]) -> None:
                held.set()
                await go_on.wait()

            proxy.fault = hold
            receiving = asyncio.ensure_future(OriginalClient(channel).receive(visibility_s=3600, wait_s=20))
            await asyncio.wait_for(held.wait(), 10)
            asked = time.monotonic()
            task.child.signal(signal.SIGTERM)
            assert await task.child.wait() == 0
            assert time.monotonic() - asked < 5, "its call to SQS alone would wait for seven seconds"
            await asyncio.gather(receiving, return_exceptions=True)
            go_on.set()
            assert "Traceback" not in task.child.log.read_text()
    assert messages_of(client(moto), queue) == 0


async def test_what_a_client_that_leaves_was_to_be_given_is_visible_again_before_the_sidecar_ends(
    world: World, moto: str
) -> None:
    """As in a task that stops: the container goes first, with a receive that waits."""
    sqs = client(moto)
    queue = sqs.create_queue(QueueName="leaving")["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="order")
    variable = "AWS_ENDPOINT_URL_SQS"
    async with (
        faulty_dynamodb({variable: moto}, variable) as proxy,
        started(world, {"QUEUE": "sqs:leaving", **aws(proxy.env[variable])}) as (task, channel),
    ):
        held, go_on = asyncio.Event(), asyncio.Event()

        async def hold(action: str, _call: dict[str, Any]) -> None:
            if action == "ReceiveMessage":
                held.set()
                await go_on.wait()

        proxy.fault = hold
        receiving = asyncio.ensure_future(OriginalClient(channel).receive(visibility_s=43_200))
        await asyncio.wait_for(held.wait(), 10)
        await cancel(receiving)
        task.child.signal(signal.SIGTERM)
        await eventually(lambda: "signal" in task.child.log.read_text(), what="SIGTERM noticed")
        await asyncio.sleep(1)  # longer than the sidecar's connections take to be closed
        go_on.set()
        assert await task.child.wait() == 0
        assert "does not answer" not in task.child.log.read_text()
    found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert (found["ApproximateNumberOfMessages"], found["ApproximateNumberOfMessagesNotVisible"]) == ("1", "0")
