"""The sidecar on an SQS queue (moto's server): the same client, the same errors."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import boto3
from grpc import StatusCode

from service.queue import sqs_pb2 as pb
from service.queue.sqs_pb2_grpc import SQSServiceStub
from tests.support.sidecar import OriginalClient, started
from tests.support.world import World


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
