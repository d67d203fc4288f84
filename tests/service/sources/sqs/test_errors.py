"""What SQS refuses, and what a client is told: from the errors that botocore has of each call, and SQS' own words."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web
from botocore.session import Session

from service.queue.server import _status
from service.sources.source import Done, TooLong, UnknownReceipt
from service.sources.sqs.source import Sqs
from tests.support.queue.sqs import Queue, kinds, reading, receive

HALF_A_DAY_S = 43_200
CALLS = ("DeleteMessage", "DeleteMessageBatch", "ChangeMessageVisibility", "ChangeMessageVisibilityBatch")
NOT_FOUND = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidIdFormat"}
MODEL = Session().get_service_model("sqs")
CODES = sorted({shape.name for call in CALLS for shape in MODEL.operation_model(call).error_shapes})
HANDLE = "Value AQEB+x0w== for parameter ReceiptHandle is invalid. Reason: "
VISIBILITY = "Value 43200 for parameter VisibilityTimeout is invalid. Reason: "
WORDS = [
    # Issues of AWS's SDKs quote them: aws-sdk-java 1628 and 2164, aws-sdk-net 794, localstack 3956.
    (f"{HANDLE}The receipt handle has expired.", "NOT_FOUND"),
    (f"{HANDLE}Message does not exist or is not available for visibility timeout change.", "NOT_FOUND"),
    (f"{VISIBILITY}Total VisibilityTimeout for the message is beyond the limit [43200 seconds]", "INVALID_ARGUMENT"),
    (f"{VISIBILITY}Must be between 0 and 43200, if provided.", "INVALID_ARGUMENT"),
    ("Visibility timeout exceeds the maximum: 43200", "INVALID_ARGUMENT"),
]


@pytest.fixture
async def source(queue: Queue) -> AsyncIterator[Sqs]:
    async with reading(queue) as source:
        yield source


def refused(code: str, message: str, query_code: str = "") -> web.Response:
    """As SQS refuses a call: https://smithy.io/2.0/aws/protocols/aws-query-protocol.html#awsquerycompatible-trait"""
    body = orjson.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": message})
    headers = {"x-amzn-query-error": f"{query_code};Sender"} if query_code else {}
    return web.Response(status=400, body=body, content_type="application/x-amz-json-1.0", headers=headers)


def failed(code: str, message: str) -> web.Response:
    """As SQS refuses one of a batch."""
    entry = {"Id": "0", "SenderFault": True, "Code": code, "Message": message}
    return web.Response(body=orjson.dumps({"Failed": [entry]}), content_type="application/x-amz-json-1.0")


async def told(queue: Queue, source: Sqs, answer: web.Response) -> set[str]:
    """The status of a deletion and of a change, when SQS answers that."""
    body, headers, status = answer.body, dict(answer.headers), answer.status
    queue.proxy.fault = lambda _action, _call: web.Response(status=status, body=body, headers=headers)
    results = [*await source.delete(["handle"]), *await source.change_visibility(["handle"], 60)]
    assert not any(isinstance(result, Done) for result in results)
    return {_status(result).name for result in results if not isinstance(result, Done)}


@pytest.mark.parametrize("code", CODES)
async def test_each_error_of_botocore_is_reported_by_what_a_client_can_do(queue: Queue, source: Sqs, code: str) -> None:
    """Its receipt is wrong, or the same call may succeed later: the queue, a key or the network is."""
    wanted = {"NOT_FOUND" if code in NOT_FOUND else "UNAVAILABLE"}
    for name in (code, f"AWS.SimpleQueueService.{code}"):
        assert await told(queue, source, failed(name, "as the test has it")) == wanted
        assert await told(queue, source, refused(code, "as the test has it", name)) == wanted


@pytest.mark.parametrize(("message", "status"), WORDS)
async def test_a_bad_duration_is_not_reported_as_a_bad_receipt(
    queue: Queue, source: Sqs, message: str, status: str
) -> None:
    for answer in (failed("InvalidParameterValue", message), refused("InvalidParameterValue", message)):
        assert await told(queue, source, answer) == {status}


async def test_a_visibility_beyond_12_hours_from_the_receive_is_a_bad_duration(queue: Queue, source: Sqs) -> None:
    """Moto counts as SQS does, and refuses all of a batch."""
    await queue.send(2)
    messages = await receive(source, 2, wait_s=1)
    handles = [message.handle for message in messages]
    assert len(handles) == 2
    results = await source.change_visibility([*handles, "forged"], HALF_A_DAY_S)
    assert kinds(results) == [TooLong, TooLong, UnknownReceipt]
    assert "at most 12 hours from its receive" in str(results[0])
    assert kinds(await source.change_visibility(handles, HALF_A_DAY_S - 60)) == [Done, Done]


@pytest.mark.parametrize(("visibility_s", "calls"), [(0, 1), (60, 3)])
async def test_a_call_is_made_as_often_as_it_may_be(queue: Queue, source: Sqs, visibility_s: int, calls: int) -> None:
    """What botocore is told by string has an effect: its own default is five attempts."""
    queue.proxy.fault = lambda _action, _call: web.Response(status=500)
    await source.change_visibility(["handle"], visibility_s)
    assert queue.called("ChangeMessageVisibilityBatch") == calls
