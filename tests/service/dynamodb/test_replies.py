"""What DynamoDB's replies mean: checksums, codes and what is tried again, with botocore's client as the judge."""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore
import orjson
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.retries import standard
from botocore.session import Session

from service.customer.store.rows import make_row
from service.dynamodb.client import DynamoDB
from service.dynamodb.endpoint import Endpoint
from service.dynamodb.errors import DynamoDBError, InvalidResponse, TableUnavailableError
from service.dynamodb.writer import Item, Writer
from tests.service.dynamodb.test_http import serving, writes
from tests.support.dynamodb.table import open_table, read

RULES: Any = standard
"""Of its modes `standard` and `adaptive`."""

pytestmark = pytest.mark.usefixtures("aws")

ROW = make_row("1", 7120)
FOUND = orjson.dumps({"Responses": {"balances": [ROW]}, "UnprocessedKeys": {}})
ITEM = Item(("1", "1"), b'{"p":{"S":"1"},"s":{"S":"1"}}')


def message(body: bytes, status: int = 200, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def summed(body: bytes, of: bytes | None = None, name: str = "x_amz_crc32", status: int = 200) -> bytes:
    return message(body, status, **{name: str(zlib.crc32(body if of is None else of))})


class Replies:
    """Gives these, one for each request, and the last one for ever."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = list(replies)
        self.count = 0

    async def __call__(self, _: bytes, writer: Any) -> None:
        writer.write(self.replies[min(self.count, len(self.replies) - 1)])
        self.count += 1


WRONG = FOUND.replace(b"7120", b"7121")


@pytest.mark.parametrize("name", ["x_amz_crc32", "X_Amz_Crc32"])
async def test_a_balance_that_was_garbled_on_its_way_is_asked_for_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = Replies(summed(WRONG, of=FOUND, name=name), summed(FOUND, name=name))
    async with serving(replies) as (server, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        async with open_table("balances") as table:
            assert await table.get("1") == ROW
            assert table.stats.errors == {"InvalidResponse": 1}
        assert (replies.count, server.connections) == (2, 2)


def botocores(reply: bytes) -> int:
    """How often its client asks for what is answered so, of two times at most."""
    head, _, body = reply.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return asked(Session(), "BatchGetItem", "standard", int(head.split(b" ")[1]), headers, body)


def asked(session: Session, operation: str, mode: str, status: int, headers: dict[str, str], body: bytes) -> int:
    count = 0

    def answer(request: Any, **_: Any) -> Any:
        nonlocal count
        count += 1
        made: Any = AWSResponse(request.url, status, HTTPHeaders.from_dict(headers), None)
        made._content = body
        return made

    retries: Any = {"mode": mode, "total_max_attempts": 2}
    config = Config(retries=retries)
    client: Any = session.create_client("dynamodb", region_name="eu-west-1", config=config)
    client.meta.events.register(f"before-send.dynamodb.{operation}", answer)
    calls: dict[str, Callable[[], Any]] = {
        "BatchGetItem": lambda: client.batch_get_item(RequestItems={"t": {"Keys": [{"id": {"S": "1"}}]}}),
        "PutItem": lambda: client.put_item(TableName="t", Item={"id": {"S": "1"}}),
        "BatchWriteItem": lambda: client.batch_write_item(
            RequestItems={"t": [{"PutRequest": {"Item": {"id": {"S": "1"}}}}]}
        ),
    }
    with contextlib.suppress(BotoCoreError, ClientError, ValueError):
        calls[operation]()
    return count


@pytest.mark.parametrize(
    "reply",
    [
        summed(FOUND),
        summed(WRONG, of=FOUND),
        message(FOUND),
        message(FOUND, x_amz_crc32="0"),
        message(FOUND, x_amz_crc32=f"{zlib.crc32(FOUND)} \t"),
        message(FOUND, x_amz_crc32=f"+{zlib.crc32(FOUND)}"),
        message(FOUND, x_amz_crc32=f"00{zlib.crc32(FOUND)}"),
        summed(b'{"__type":"x#ValidationException"}', status=400),
        summed(b'{"__type":"x#ValidationException"}', of=b"", status=400),
        summed(b'{"__type":"x#AccessDeniedException"}', of=b"", status=403),
    ],
    ids=[
        "right",
        "wrong",
        "none",
        "zero",
        "blanks after it",
        "a sign",
        "zeros before it",
        "of an error",
        "not of an error",
        "not of another error",
    ],
)
async def test_a_checksum_is_checked_as_botocore_does(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    replies = Replies(reply)
    async with serving(replies) as (_, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        async with open_table("balances") as table:
            await table.get("1")
    assert (replies.count > 1) == (botocores(reply) > 1)


@pytest.mark.parametrize("sums", [("abc",), ("",), ("right", "0"), ("0", "right"), ("9" * 5000,)])
async def test_a_checksum_that_is_no_number_and_any_wrong_one_of_several_is_wrong(sums: tuple[str, ...]) -> None:
    lines = "".join(f"x-amz-crc32: {sum_.replace('right', str(zlib.crc32(b'{}')))}\r\n" for sum_ in sums)
    error = await error_of(f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{lines}\r\n{{}}".encode())
    assert isinstance(error, InvalidResponse)


async def test_writes_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, right = b'{"UnprocessedItems":{} }', b'{"UnprocessedItems":{}}'
    replies = Replies(summed(wrong, of=right), summed(right), summed(b"{ }", of=b"{}"), summed(b"{}"))
    async with serving(replies) as (_, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        writer = Writer("events", "p", "s", "ARCHIVE_TABLE")
        writer.open()
        assert (await writer.write([ITEM])).written == [ITEM]
        assert writer.errors == {"InvalidResponse": 1}
        writer.close()
        async with open_table("balances") as table:
            with pytest.raises(TableUnavailableError):
                await table.insert(ROW)
            assert await table.insert(ROW) is True


async def error_of(reply: bytes) -> Exception:
    async with serving(writes(reply)) as (_, url):
        api = DynamoDB(Endpoint("eu-west-1", url), 5.0)
        with pytest.raises((DynamoDBError, InvalidResponse)) as raised:
            await api.call("BatchGetItem", {})
        api.close()
    return raised.value


@pytest.mark.parametrize(
    "told",
    [
        "ThrottlingException",
        "com.amazonaws.dynamodb.v20120810#ThrottlingException",
        "ThrottlingException:http://internal.amazon.com/coral/com.amazon.coral.service/",
        "aws.protocoltests#ThrottlingException:http://internal.amazon.com/coral/com.amazon.coral.service/",
        "http://internal.amazon.com/coral/com.amazon.coral.service/#ThrottlingException",
        "https://internal.amazon.com/coral/com.amazon.coral.service/#ThrottlingException",
    ],
)
async def test_a_code_is_found_in_each_form_and_place(told: str) -> None:
    """https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html#operation-error-serialization"""
    for reply in (
        message(orjson.dumps({"__type": told, "message": "slower"}), 400),
        message(orjson.dumps({"code": told, "message": "slower"}), 400),
        message(orjson.dumps({"message": "slower"}), 400, x_amzn_ErrorType=told),
        message(b"", 400, X_Amzn_Errortype=told),
        message(b'{"__type":null,"message":"slower"}', 400, x_amzn_ErrorType=told),
    ):
        error = await error_of(reply)
        assert isinstance(error, DynamoDBError), reply
        assert (error.code, error.status) == ("ThrottlingException", 400)
        assert error.throttled


async def test_too_many_requests_of_a_gateway_are_a_throttle() -> None:
    error = await error_of(message(b"slower", 429))
    assert isinstance(error, DynamoDBError)
    assert error.throttled


def known_codes() -> list[str]:
    """Every code that botocore's retry data and retry modes name, and every error of DynamoDB's model."""
    folder = Path(botocore.__file__).parent / "data"
    found = {
        *RULES.ThrottledRetryableChecker._THROTTLED_ERROR_CODES,
        *RULES.TransientRetryableChecker._TRANSIENT_ERROR_CODES,
        *(shape.name for shape in Session().get_service_model("dynamodb").error_shapes),
        "UnrecognizedClientException",
        "ExpiredTokenException",
        "AccessDeniedException",
    }

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(code := node.get("service_error_code"), str):
                found.add(code)
            for value in node.values():
                walk(value)

    retry = json.loads((folder / "_retry.json").read_text())

    walk(retry["definitions"])
    walk(retry["retry"]["dynamodb"])
    return sorted(found)


STATUSES = sorted(
    {
        *RULES.TransientRetryableChecker._TRANSIENT_STATUS_CODES,
        *RULES.ThrottlingStatusCodeChecker._THROTTLING_STATUS_CODES,
        501,
        509,
    }
)


def retryable(status: int, code: str) -> bool:
    return DynamoDBError(status, code, "").retryable


@pytest.mark.parametrize("mode", ["legacy", "standard"])
@pytest.mark.parametrize("operation", ["BatchGetItem", "PutItem", "BatchWriteItem"])
def test_what_botocore_tries_again_is_tried_again(operation: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    given_up = list[tuple[int, str]]()
    retried = set[str]()
    session = Session()  # each client has retries of its own
    for code in known_codes():
        for status in (400, 409) if code == "ReplicatedWriteConflictException" else (400,):
            body = orjson.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": ""})
            if asked(session, operation, mode, status, {}, body) > 1:
                retried.add(code)
                if not retryable(status, code):
                    given_up.append((status, code))
    for status in STATUSES:
        body = orjson.dumps({"__type": "x#Unheard", "message": ""})
        if asked(session, operation, mode, status, {}, body) > 1 and not retryable(status, "Unheard"):
            given_up.append((status, "Unheard"))
    assert not given_up
    assert {"ThrottlingException", "ProvisionedThroughputExceededException"} <= retried, "the judge judges"


@pytest.mark.parametrize(
    ("code", "again"),
    [
        ("AccessDeniedException", False),
        ("ConditionalCheckFailedException", False),
        ("IncompleteSignatureException", False),
        ("ItemCollectionSizeLimitExceededException", True),
        ("LimitExceededException", True),
        ("MissingAuthenticationTokenException", False),
        ("ProvisionedThroughputExceededException", True),
        ("ReplicatedWriteConflictException", True),
        ("RequestLimitExceeded", True),
        ("ResourceInUseException", False),
        ("ResourceNotFoundException", False),
        ("ThrottlingException", True),
        ("UnrecognizedClientException", True),
        ("ValidationException", False),
    ],
)
def test_what_dynamodbs_document_says_is_ok_to_retry(code: str, again: bool) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html"""
    assert retryable(400, code) is again


async def test_a_role_that_was_just_made_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = message(b'{"__type":"x#UnrecognizedClientException","message":"The security token is invalid"}', 400)
    replies = Replies(fresh, summed(FOUND), fresh, summed(b"{}"))
    async with serving(replies) as (_, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        async with open_table("balances") as table:
            assert await table.get("1") == ROW
            assert await table.insert_or_retry(ROW) is True


@pytest.mark.parametrize(
    "strange",
    [
        {"Responses": {"balances": [make_row("2", 99)]}, "UnprocessedKeys": {}},
        {"Responses": {"balances": [ROW, make_row("2", 99)]}, "UnprocessedKeys": {}},
        {"Responses": {}, "UnprocessedKeys": {"balances": {"Keys": [{"id": {"S": "2"}}]}}},
        {"Responses": {"balances": [{"id": {"S": ["1"]}}]}, "UnprocessedKeys": {}},
    ],
    ids=["another's row", "another's row too", "another's key", "no key"],
)
async def test_what_was_not_asked_for_is_asked_again_on_another_connection(
    strange: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = Replies(message(orjson.dumps(strange)), summed(FOUND))
    async with serving(replies) as (server, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        async with open_table("balances") as table:
            assert await table.get("1") == ROW
            assert table.stats.errors == {"InvalidResponse": 1}
            assert (replies.count, server.connections) == (2, 2)
            replies.replies = [message(orjson.dumps(strange))]
            assert isinstance(await table.get("1"), TableUnavailableError)


async def test_a_row_that_is_found_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"Responses": {"balances": [ROW]}, "UnprocessedKeys": {"balances": {"Keys": [{"id": {"S": "1"}}]}}}
    replies = Replies(message(orjson.dumps(both)))
    async with serving(replies) as (_, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
        async with open_table("balances") as table:
            assert await read(table, ["1"]) == {"1": ROW}
    assert replies.count == 1
