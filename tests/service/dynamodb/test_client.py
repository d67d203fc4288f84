"""Signatures beside botocore's own, and how errors are classified."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials

from service.dynamodb import client as module
from service.dynamodb.client import DynamoDB
from service.dynamodb.endpoint import Endpoint
from service.dynamodb.errors import DynamoDBError, InvalidResponse
from service.dynamodb.signature import Signer
from service.runtime.errors import ServiceError
from tests.service.dynamodb.test_http import OK, serving, writes
from tests.support.dynamodb.faulty import FaultyDynamoDB, answer, refusal

HOST = "dynamodb.eu-west-1.amazonaws.com"
NOON = int(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp())


def of_botocore(credentials: ReadOnlyCredentials, action: str, body: bytes, now: int) -> dict[str, str]:
    request = AWSRequest(
        "POST",
        f"https://{HOST}/",
        {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"DynamoDB_20120810.{action}"},
        body,
    )
    signer = SigV4Auth(
        Credentials(credentials.access_key or "", credentials.secret_key or "", credentials.token),
        "dynamodb",
        "eu-west-1",
    )
    request.context["timestamp"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    if credentials.token:
        request.headers["X-Amz-Security-Token"] = credentials.token
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    signed = signer.signed_headers(signer.headers_to_sign(request))
    request.headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={signed}, Signature={signature}"
    )
    return {name.lower(): value for name, value in request.headers.items()}


def test_signatures_are_botocores(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(HOST, "eu-west-1")
    task_role = ReadOnlyCredentials("ASIA1", "secret/1+", "a/token==", None)
    user = ReadOnlyCredentials("AKIA2", "secret 2", None, None)
    for now in (NOON, NOON, NOON + 1, NOON + 86_400, NOON + 365 * 86_400):
        monkeypatch.setattr(time, "time", lambda now=now: now + 0.7)
        for credentials in (task_role, user, task_role):
            for action, body in (("BatchGetItem", b'{"a":1}'), ("PutItem", "ü".encode()), ("PutItem", b"")):
                lines = signer.headers(credentials, action, body).removesuffix("\r\n").split("\r\n")
                ours = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                ours.pop("accept", None)
                assert ours == of_botocore(credentials, action, body, now)


@pytest.fixture
async def api(proxy: FaultyDynamoDB, aws: None) -> DynamoDB:
    return DynamoDB(Endpoint("eu-west-1", proxy.env["AWS_ENDPOINT_URL_DYNAMODB"]), 2.0)


async def error_of(api: DynamoDB) -> DynamoDBError:
    with pytest.raises(DynamoDBError) as raised:
        await api.call("BatchGetItem", {})
    return raised.value


@pytest.mark.parametrize(
    ("code", "status", "throttled", "retryable", "access_denied"),
    [
        ("ThrottlingException", 400, True, True, False),
        ("InternalServerError", 500, False, True, False),
        ("ValidationException", 400, False, False, False),
        ("ResourceNotFoundException", 400, False, False, False),
        ("AccessDeniedException", 400, False, False, True),
        ("ExpiredTokenException", 400, False, True, True),
    ],
)
async def test_errors_are_classified(
    proxy: FaultyDynamoDB, api: DynamoDB, code: str, status: int, throttled: bool, retryable: bool, access_denied: bool
) -> None:
    proxy.fault = lambda *_: refusal(code, status)
    error = await error_of(api)
    assert (error.code, error.status, error.throttled, error.retryable, error.access_denied) == (
        code, status, throttled, retryable, access_denied,
    )  # fmt: skip
    assert str(error) == f"{code}: as the test wants it"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b"\xff"])
async def test_what_is_not_dynamodbs_is_garbage_unless_it_is_a_gateways_error(
    proxy: FaultyDynamoDB, api: DynamoDB, body: bytes
) -> None:
    proxy.fault = lambda *_: web.Response(body=body)
    with pytest.raises(InvalidResponse, match="not DynamoDB's"):
        await api.call("BatchGetItem", {})
    for status in (502, 413):
        proxy.fault = lambda *_, status=status: web.Response(status=status, body=body)
        assert (await error_of(api)).retryable


@pytest.mark.parametrize("code", ["x" * 500_000, "no code", "", "a\nb"])
async def test_an_error_is_counted_by_a_code_and_nothing_else(proxy: FaultyDynamoDB, api: DynamoDB, code: str) -> None:
    proxy.fault = lambda *_: refusal(code)
    with pytest.raises(InvalidResponse, match="a code that is not DynamoDB's") as error:
        await api.call("BatchGetItem", {})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "strange",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b'HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\n{"__type":"a b"}',
    ],
)
async def test_a_connection_with_what_is_not_dynamodbs_is_not_used_again(aws: None, strange: bytes) -> None:
    """What comes on it next may be this call's late answer."""
    async with serving(writes(strange)) as (server, url):
        api = DynamoDB(Endpoint("eu-west-1", url), 2.0)
        with pytest.raises(InvalidResponse):
            await api.call("BatchGetItem", {})
        server.answering = writes(OK)
        assert await api.call("BatchGetItem", {}) == {}
        assert server.connections == 2
        api.close()


async def test_an_expired_token_has_the_credentials_read_again(
    proxy: FaultyDynamoDB, api: DynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expired_once(*_: Any) -> web.Response:
        return refusal("ExpiredTokenException") if len(proxy.calls) == 1 else answer({})

    proxy.fault = expired_once
    assert (await error_of(api)).code == "ExpiredTokenException"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ROTATED")
    assert await api.call("BatchGetItem", {}) == {}
    assert "Credential=ROTATED/" in proxy.authorizations[-1]


def test_an_endpoint_that_is_no_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "endpoint", lambda: Endpoint("eu-west-1", "ftp://127.0.0.1"))
    with pytest.raises(ServiceError, match=r"^AWS_ENDPOINT_URL_DYNAMODB: ftp://127\.0\.0\.1 is not an HTTP address"):
        DynamoDB.configured(1.0)
