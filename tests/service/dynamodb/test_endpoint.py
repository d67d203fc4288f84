"""Where DynamoDB is, and how a call to it is signed: what botocore itself would do."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.session import Session

from service.dynamodb.endpoint import endpoint
from service.dynamodb.http import Pool
from service.runtime.errors import ServiceError


class Sent(Exception):
    """Instead of being sent."""


def botocores(region: str) -> str:
    """The URL that botocore's own client calls."""

    def stop(request: Any, **_: Any) -> None:
        raise Sent(request.url)

    client: Any = Session().create_client(
        "dynamodb", region_name=region, aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.meta.events.register("before-send.dynamodb.ListTables", stop)
    with pytest.raises(Sent) as sent:
        client.list_tables()
    return str(sent.value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_ENDPOINT_URL": "http://localhost:8000"},
        {"AWS_ENDPOINT_URL": "http://localhost:8000/a%20path/%C3%A9"},
        {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_ENDPOINT_URL_DYNAMODB": "https://vpce-1.example.com/x"},
        {"AWS_ENDPOINT_URL_DYNAMODB": "http://localhost:8000", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    ],
)
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "foo"])
def test_the_endpoint_is_botocores(region: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", region)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ACCOUNT_ID_ENDPOINT_MODE", "disabled")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = endpoint()
    assert (found.of(None).rstrip("/"), found.region) == (botocores(region).rstrip("/"), region)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a b", "http://127.0.0.1:1/é", "http://127.0.0.1:1/?token=SEKRET", "http://127.0.0.1:0"]
)
def test_an_endpoint_that_cannot_be_called_as_it_is_written_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
    with pytest.raises(ServiceError, match="AWS_ENDPOINT_URL_DYNAMODB or AWS_ENDPOINT_URL has a") as refused:
        endpoint()
    assert "SEKRET" not in str(refused.value)


@pytest.mark.parametrize(
    "variables", [{"AWS_REGION": "not a region!"}, {"AWS_ENDPOINT_URL": "junk"}, {"AWS_PROFILE": "nobody"}]
)
def test_a_configuration_without_sense_is_one_line(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_REGION": "us-east-1", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ServiceError, match="AWS configuration"):
        endpoint()


@pytest.mark.parametrize(
    "address",
    ["http://u:SEKRET@h:1", "http://u:x/SEKRET@h", "http://u:SEKRET/x@h", "u:SEKRET@h", "http://u:SEKRET@h:x"],
)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"])
def test_a_user_in_an_endpoint_is_refused_and_not_shown(
    address: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv(variable, address)
    with pytest.raises(ServiceError) as refused:
        endpoint()
    assert "SEKRET" not in str(refused.value)
    assert "AWS_ENDPOINT_URL" in str(refused.value)


async def test_the_path_of_an_endpoint_is_called_and_signed() -> None:
    assert Pool("http://localhost:8000/a/b", 1.0).path == "/a/b"
    assert Pool("http://localhost:8000", 1.0).path == "/"
