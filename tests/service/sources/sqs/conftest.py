"""A queue of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import boto3
import pytest

from tests.support.dynamodb.faulty import faulty_dynamodb
from tests.support.queue.sqs import Queue


@pytest.fixture
async def queue(moto: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queue]:
    env = {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    sqs: Any = boto3.client("sqs", endpoint_url=moto, region_name="eu-central-1")
    variable = "AWS_ENDPOINT_URL_SQS"
    async with faulty_dynamodb({variable: moto}, variable) as proxy:
        monkeypatch.setenv(variable, proxy.env[variable])
        made = Queue(sqs, proxy)
        made.make()
        yield made
