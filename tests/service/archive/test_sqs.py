"""The archive from an SQS queue, on moto's server."""

from __future__ import annotations

import asyncio
import random
import signal
import uuid
from collections import Counter
from typing import Any

import boto3

from service.archive.settings import ArchiveSettings
from tests.support.archive import ArchiveWorld, ended
from tests.support.dynamodb.faulty import Call, faulty_dynamodb

SHUTDOWN_S = 12
"""SHUTDOWN_TIMEOUT of these tasks, and what a busy machine adds."""


async def test_each_message_of_a_queue_is_one_row(archive: ArchiveWorld, moto: str) -> None:
    sqs: Any = boto3.client(
        "sqs", endpoint_url=moto, region_name="eu-west-1", aws_access_key_id="local", aws_secret_access_key="local"
    )
    name = f"numbers-{uuid.uuid4().hex[:8]}"
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    dice = random.Random(1)
    bodies = [str(dice.randrange(5)) for _ in range(120)]
    for start in range(0, len(bodies), 10):
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
        sqs.send_message_batch(QueueUrl=queue, Entries=entries)
    code, log = await archive.run_to_end(ARCHIVE_SOURCE=f"sqs:{name}", AWS_ENDPOINT_URL_SQS=moto, IDLE_EXIT="0.5")
    assert code == 0, log
    rows = archive.rows()
    assert Counter(row["body"]["S"] for row in rows) == Counter(bodies), "equal bodies are rows of their own"
    for row in rows:
        time, _, message = row["event"]["S"].partition("#")
        assert (time, message) == (row["event_time"]["S"], row["client_id"]["S"])
        assert "sequence" not in row


async def test_a_queue_that_is_not_there_is_one_line(archive: ArchiveWorld, moto: str) -> None:
    code, log = await archive.run_to_end(ARCHIVE_SOURCE="sqs:not-there", AWS_ENDPOINT_URL_SQS=moto)
    assert code == 1
    assert ended(log) == "queue not-there does not exist; make it, or correct ARCHIVE_SOURCE"


def test_a_user_in_a_queues_url_is_not_shown() -> None:
    settings = ArchiveSettings(archive_source="sqs:http://u:p@ss/SEKRET@host/1/q", archive_table="events")
    assert settings.source_shown == "sqs:http://host/1/q"


async def test_a_stop_is_in_time_though_sqs_is_silent(archive: ArchiveWorld, moto: str) -> None:
    sqs: Any = boto3.client(
        "sqs", endpoint_url=moto, region_name="eu-west-1", aws_access_key_id="local", aws_secret_access_key="local"
    )
    name = f"silent-{uuid.uuid4().hex[:8]}"
    sqs.create_queue(QueueName=name)
    variable = "AWS_ENDPOINT_URL_SQS"
    async with (
        faulty_dynamodb({variable: moto}, variable) as proxy,
        archive.task(ARCHIVE_SOURCE=f"sqs:{name}", **{variable: proxy.env[variable]}) as task,
    ):
        silent = asyncio.Event()

        async def stall(_action: str, _call: Call) -> None:
            silent.set()
            await asyncio.Event().wait()

        proxy.fault = stall
        await asyncio.wait_for(silent.wait(), 10)
        task.child.signal(signal.SIGTERM)
        async with asyncio.timeout(SHUTDOWN_S):
            assert await task.child.wait() == 0
