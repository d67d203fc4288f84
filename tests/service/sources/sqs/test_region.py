"""A queue's URL says its region, wherever the process is. botocore is the judge of what URL belongs to what region."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from service.runtime.errors import ServiceError
from service.sources.sqs.calls import Timing
from service.sources.sqs.region import place_of
from service.sources.sqs.source import Sqs
from tests.support.dynamodb.faulty import faulty_dynamodb
from tests.support.dynamodb.reach import Case, Wire, configure, told, wired

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
    assert {place_of(f"https://{host}/123456789012/orders").region for host in found} == {region}


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://queue.amazonaws.com/123456789012/orders", "us-east-1"),
        ("https://vpce-0a1b-2c3d.sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders", "eu-west-1"),
        ("https://vpce-0a1b-2c3d.sqs-fips.us-east-1.vpce.amazonaws.com/123456789012/orders", "us-east-1"),
        ("https://sqs.eu-west-1.amazonaws.com./123456789012/orders", "eu-west-1"),
        ("http://127.0.0.1:5000/123456789012/orders", None),
        ("http://sqs.eu-central-1.localhost.localstack.cloud:4566/000000000000/orders", None),
        ("https://sqs.eu-west-1.amazonaws.com.example.org/123456789012/orders", None),
        ("", None),
    ],
)
def test_what_aws_documents_beside_them(url: str, region: str | None) -> None:
    """https://docs.aws.amazon.com/general/latest/gr/sqs-service.html"""
    assert place_of(url).region == region


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


@pytest.fixture
async def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """Its proxy goes nowhere: it notes what it is asked for."""
    async with wired(tmp_path, monkeypatch) as made:

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made.seen.append(told(await reader.readuntil(b"\r\n\r\n")))
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
            made.proxy = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            yield made


async def called(url: str, wire: Wire) -> str:
    """What a proxy is asked for first."""
    source = Sqs(url, "QUEUE", timing=Timing(attempts=1))
    for need in source.needs():
        with contextlib.suppress(ServiceError):
            await need.look()
    for client in (source._calls._once, source._calls._again):
        client.close()
    return wire.seen[0].partition(" |")[0]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://sqs.eu-west-1.amazonaws.com", ""),
        ("https://sqs-fips.us-east-1.amazonaws.com", ""),
        ("https://sqs.us-east-1.api.aws", ""),
        ("https://vpce-0a1b-2c3d.sqs.eu-west-1.vpce.amazonaws.com", ""),
        ("https://vpce-0a1b-2c3d.sqs-fips.us-east-1.vpce.amazonaws.com", ""),
        ("https://sqs.eu-west-1.amazonaws.com:8443", ""),
        ("https://orders.example.com:9324", ""),
        ("https://queue.amazonaws.com", "sqs.us-east-1.amazonaws.com"),
        ("https://eu-west-1.queue.amazonaws.com", "sqs.eu-west-1.amazonaws.com"),
        ("https://cn-north-1.queue.amazonaws.com.cn", "sqs.cn-north-1.amazonaws.com.cn"),
    ],
)
async def test_a_queue_is_called_at_its_urls_host(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, url: str, host: str
) -> None:
    configure(wire, Case({"HTTPS_PROXY": "http://<proxy>", "AWS_REGION": OWN}), monkeypatch)
    host = host or url.removeprefix("https://")
    assert await called(f"{url}/123456789012/orders", wire) == (host if ":" in host else f"{host}:443")


async def test_a_regional_url_has_the_endpoint_that_the_configuration_says(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(wire, Case({"HTTPS_PROXY": "http://<proxy>", "AWS_USE_FIPS_ENDPOINT": "true"}), monkeypatch)
    found = await called("https://sqs.us-east-1.amazonaws.com/123456789012/orders", wire)
    assert found == "sqs-fips.us-east-1.amazonaws.com:443"


@pytest.mark.parametrize(
    "case",
    [
        Case({"AWS_ENDPOINT_URL_SQS": "<http>"}),
        Case({"AWS_ENDPOINT_URL": "<http>"}),
        Case({}, "endpoint_url = <http>"),
        Case({}, "services = local\n[services local]\nsqs =\n  endpoint_url = <http>"),
    ],
    ids=["of SQS", "of all", "the profile's", "the profile's of SQS"],
)
async def test_an_endpoint_of_the_configuration_comes_before_the_urls(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    configure(wire, case, monkeypatch)
    found = await called("https://vpce-0a1b.sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders", wire)
    assert found == "POST / HTTP/1.1"


async def test_what_gives_credentials_is_asked_in_the_region(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_REGION's, which botocore does not read; without one, the queue's."""
    wire.config.with_name("token").write_text("token")
    identity = {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/a",
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
    }
    own = {**identity, "AWS_WEB_IDENTITY_TOKEN_FILE": str(wire.config.with_name("token")), "AWS_DEFAULT_REGION": ""}
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for extra, region in (({}, "eu-west-1"), ({"AWS_REGION": OWN}, OWN)):
        wire.seen.clear()
        configure(wire, Case({**own, "HTTPS_PROXY": "http://<proxy>", **extra}), monkeypatch)
        found = await called("https://sqs.eu-west-1.amazonaws.com/123456789012/orders", wire)
        assert found == f"sts.{region}.amazonaws.com:443"


@pytest.mark.parametrize("url", ["https://[x/1/orders", "https://host:abc/1/orders", "http:///orders"])
async def test_an_invalid_url_is_reported(url: str) -> None:
    (need,) = Sqs(url, "QUEUE").needs()
    with pytest.raises(ServiceError, match=r"^queue .* cannot be read: "):
        await need.look()
