"""Parse SQS's responses with care: a proxy may answer instead, and botocore takes an HTML page for an empty answer."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any, Final

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from service.runtime.logs import Repeated
from service.sources.source import Backlog, Done, Result, TooLong, UnknownReceipt, Unreachable
from service.sources.sqs.message import QueueMessage

log: Final = structlog.get_logger("service.sources")
_unreadable: Final = Repeated(log, "message of SQS not readable; it is handed to nobody and comes again")

FAILURES: Final = (BotoCoreError, ClientError)
MS: Final = 1_000_000
SUCCESS: Final = range(200, 300)
BACKLOG: Final = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
_PREFIX: Final = "AWS.SimpleQueueService."
"""Prefix of error codes in SQS's older protocol; the newer one may send it too."""
_GONE: Final = {"NonExistentQueue", "QueueDoesNotExist"}
_UNKNOWN: Final = {
    "ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidIdFormat", "InvalidParameterValue", "MissingParameter",
}  # fmt: skip
_visibility: Final = re.compile("(?i)visibility ?timeout").search
_GARBLED: Final = (AttributeError, LookupError, TypeError, ValueError)
"""What parsing raises when a response does not have the documented form."""


class NotSqs(BotoCoreError):
    """A 2xx response that did not come from SQS."""

    fmt = "an answer that is not SQS' own: {what}"


class Silent(BotoCoreError):
    fmt = "no answer within {within_s:.0f} s"


def check(response_dict: Any, **_: Any) -> None:
    """Handle botocore's event `before-parse`. Raises `NotSqs` if a 2xx response is not a JSON object."""
    if response_dict["status_code"] not in SUCCESS:
        return
    body = response_dict["body"]
    try:
        is_object = isinstance(json.loads(body), dict)
    except ValueError:
        is_object = False
    if not is_object:
        kind = response_dict["headers"].get("Content-Type") or "no content type"
        raise NotSqs(what=f"{len(body)} bytes, {kind}")


def garbled(error: Exception) -> NotSqs:
    return NotSqs(what=f"{type(error).__name__}: {error}")


def queue_url(answer: Any) -> str:
    try:
        return str(answer["QueueUrl"])
    except _GARBLED as error:
        raise garbled(error) from None


def backlog(answer: Any) -> Backlog:
    try:
        return Backlog(sum(int(answer["Attributes"][name]) for name in BACKLOG))
    except _GARBLED as error:
        raise garbled(error) from None


def messages(answer: Any) -> list[QueueMessage]:
    """Return the messages that can be parsed. Raises `NotSqs` when there are some and none can be parsed."""
    read: list[QueueMessage] = []
    problem: Exception | None = None
    for message in answer.get("Messages") or ():
        try:
            read.append(_message(message))
        except _GARBLED as error:
            problem = error
            _unreadable.warning("", id=message.get("MessageId"), error=f"{type(error).__name__}: {error}")
    if problem is not None and not read:
        raise garbled(problem)
    return read


def handles(answer: Any) -> list[str]:
    """Return the receipt handles of all messages, including those that cannot be parsed."""
    return [message["ReceiptHandle"] for message in answer.get("Messages") or () if "ReceiptHandle" in message]


def results(answer: Any, receipts: Sequence[str]) -> list[Result]:
    """Return a result per receipt; its place is its entry's id. Only what SQS lists as successful is `Done`."""
    done = {entry.get("Id") for entry in answer.get("Successful") or ()}
    failed = {entry.get("Id"): entry for entry in answer.get("Failed") or ()}
    return [_result(receipt, str(place), done, failed) for place, receipt in enumerate(receipts)]


def _result(receipt: str, id_: str, done: set[str], failed: dict[str, Any]) -> Result:
    if entry := failed.get(id_):
        code = str(entry.get("Code")).removeprefix(_PREFIX)
        return _refusal(code, str(entry.get("Message") or code))
    if id_ in done:
        return Done(receipt)
    return Unreachable("SQS: the answer omits this message; call again")


def failure(error: Exception) -> Result:
    """Return the result of every entry of a call that failed as a whole."""
    return _refusal(_code(error), said(error))


def is_gone(error: Exception) -> bool:
    return _code(error) in _GONE


def said(error: Exception) -> str:
    """Return an error's text, without user and password of any URL in it."""
    return without_user(str(error))


def without_user(address: str) -> str:
    return re.sub(r"//\S*@", "//", address)


def _code(error: Exception) -> str:
    code = str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""
    return code.removeprefix(_PREFIX)


def _refusal(code: str, what: str) -> Result:
    """Translate SQS's error code for a client.

    SQS answers `InvalidParameterValue` both for a receipt whose visibility has ended and for a visibility that would
    end more than 12 hours after the receive; only the text tells which parameter it means.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibility.html
    """
    if code == "InvalidParameterValue" and _visibility(what) and "ReceiptHandle" not in what:
        return TooLong(f"SQS: {what}; a message is invisible for at most 12 hours from its receive")
    if code in _UNKNOWN:
        return UnknownReceipt(f"SQS: {what}; give the messageID as it was received")
    return Unreachable(f"SQS: {what}; call again")


def _message(message: dict[str, Any]) -> QueueMessage:
    system, attributes = message["Attributes"], message.get("MessageAttributes") or {}
    headers = tuple((_text(name), _value(value)) for name, value in attributes.items())
    data, handle = message["Body"].encode(errors="surrogatepass"), message["ReceiptHandle"]
    return QueueMessage(
        handle=handle,
        id=message["MessageId"],
        data=data,
        headers=headers,
        times_received=int(system["ApproximateReceiveCount"]),
        sent_ns=int(system["SentTimestamp"]) * MS,
        size=len(data) + len(handle) + sum(len(name.encode()) + len(value.encode()) for name, value in headers),
    )


def _value(attribute: dict[str, Any]) -> str:
    """Return an attribute's value as text; a binary one in base64, as in SQS's API."""
    if "BinaryValue" in attribute:
        return base64.b64encode(attribute["BinaryValue"]).decode()
    return _text(attribute["StringValue"])


def _text(value: str) -> str:
    return value.encode(errors="replace").decode()
