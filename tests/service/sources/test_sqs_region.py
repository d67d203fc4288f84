"""A queue's URL says its region, wherever the process is. botocore is the judge of what URL belongs to what region."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from service.sources.sqs import Sqs
from service.sources.sqs_region import region_of
from tests.support.faulty import faulty_dynamodb

VARIABLE = "AWS_ENDPOINT_URL_SQS"
KEYS: Any = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
OWN = "ap-southeast-2"
"""The process's region, in which no queue of these tests is."""
SESSION: Any = Session()
REGIONS = [
    region
    for partition in SESSION.get_available_partitions()
    for region in SESSION.get_available_regions("sqs", partition)
]


def hosts(region: str) -> set[str]:
    """Where botocore calls SQS of a region, and what it calls it in the legacy form."""
    found = set()
    for fips in (False, True):
        for dual_stack in (False, True):
            config = Config(use_fips_endpoint=fips, use_dualstack_endpoint=dual_stack)
            try:
                client: Any = boto3.client("sqs", region_name=region, config=config, **KEYS)
                found.add(urlsplit(client.generate_presigned_url("list_queues")).netloc)
            except BotoCoreError:
                continue  # the region has none of that kind
    (partition,) = [
        name for name in SESSION.get_available_partitions() if region in SESSION.get_available_regions("sqs", name)
    ]
    resolver = SESSION._get_internal_component("endpoint_resolver")
    legacy = resolver.construct_endpoint("sqs", region, partition).get("sslCommonName")
    return found | ({legacy} if legacy else set())


@pytest.mark.parametrize("region", REGIONS)
def test_each_host_of_botocore_is_its_regions(region: str) -> None:
    found = hosts(region)
    assert found
    assert {region_of(f"https://{host}/123456789012/orders") for host in found} == {region}


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://queue.amazonaws.com/123456789012/orders", "us-east-1"),
        ("https://vpce-0a1b-2c3d.sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders", "eu-west-1"),
        ("http://127.0.0.1:5000/123456789012/orders", None),
        ("http://sqs.eu-central-1.localhost.localstack.cloud:4566/000000000000/orders", None),
        ("https://sqs.eu-west-1.amazonaws.com.example.org/123456789012/orders", None),
        ("", None),
    ],
)
def test_what_aws_documents_beside_them(url: str, region: str | None) -> None:
    """https://docs.aws.amazon.com/general/latest/gr/sqs-service.html"""
    assert region_of(url) == region


@pytest.mark.parametrize(
    ("queue", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/orders", "eu-west-1"),
        ("https://queue.amazonaws.com/123456789012/orders", "us-east-1"),
        ("http://localhost:4566/000000000000/orders", OWN),
        ("orders", OWN),
    ],
)
async def test_each_call_is_signed_for_the_queues_region(
    moto: str, monkeypatch: pytest.MonkeyPatch, queue: str, region: str
) -> None:
    """With a custom endpoint too: it is called, and told the region."""
    client: Any = boto3.client("sqs", endpoint_url=moto, region_name=region, **KEYS)
    client.create_queue(QueueName="orders")
    async with faulty_dynamodb({VARIABLE: moto}, VARIABLE) as proxy:
        for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": OWN}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(VARIABLE, proxy.env[VARIABLE])
        source = Sqs(queue, "QUEUE")
        for need in source.needs():
            await need.look()
        assert await source.receive(1, 3_500_000, 30, 0) == []
        await source.delete(["unknown"])
        await source.close()
    assert {scope.split("/")[2] for scope in proxy.authorizations} == {region}
