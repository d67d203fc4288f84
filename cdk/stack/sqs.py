"""The stack's SQS queues, and the calls with which a role reads one."""

from __future__ import annotations

from typing import Final

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from constructs import Construct

READER_CALLS: Final = (
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
)
"""Calls of a role that has the queue's URL; a role that has its name also calls `GetQueueUrl`."""


def make_queue(
    scope: Construct, id_: str, name: str, *, kept: Duration, removal: RemovalPolicy, dead: sqs.Queue | None = None,
    max_receive_count: int = 0,
) -> sqs.Queue:  # fmt: skip
    """Make a queue: encrypted, TLS only. `dead` takes messages received more often than `max_receive_count`."""
    return sqs.Queue(
        scope,
        id_,
        queue_name=name,
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        retention_period=kept,
        dead_letter_queue=sqs.DeadLetterQueue(queue=dead, max_receive_count=max_receive_count) if dead else None,
        removal_policy=removal,
    )


def existing_queue(scope: Construct, id_: str, name: str) -> sqs.IQueue:
    """Return a queue of the stack's region by its name or ARN."""
    arn = name if name.startswith("arn:") else Stack.of(scope).format_arn(service="sqs", resource=name)
    return sqs.Queue.from_queue_arn(scope, id_, arn)


def may_read(queue: sqs.IQueue) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=list(READER_CALLS), resources=[queue.queue_arn])
