"""An SQS queue, through boto3 in threads: ten messages a call, long polling, the SDK's own credentials.

A redrive policy of the queue is what sets messages aside that are received too often.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need
from service.sources.source import Backlog, Done, Message, Result, Unavailable, UnknownReceipt

log: Final = structlog.get_logger("service.sources")
_failed: Final = Repeated(log, "SQS call failed")

THREADS: Final = 32
CALL_MESSAGES: Final = 10
MESSAGE_BYTES: Final = 1024 * 1024
"""SQS' limits of a call and of a message."""
MS: Final = 1_000_000
PAUSE_S: Final = 0.5
POLL_S: Final = 2
"""A stop waits for a poll in flight no longer than that."""
_GONE: Final = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
_UNKNOWN: Final = {"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"}
_FAILURES: Final = (BotoCoreError, ClientError)


class Sqs:
    """The queue of this name or URL, in the AWS SDK's region. `variable` is the one that named it."""

    dead_letters = 0
    dead_letters_refused = 0
    discarded = 0
    """SQS does not tell: alarm on the age of its oldest message before its retention ends."""
    visibility_s = 60.0
    portion = CALL_MESSAGES, CALL_MESSAGES * MESSAGE_BYTES

    def __init__(self, queue: str, variable: str) -> None:
        self._variable = variable
        self.name = queue.rstrip("/").rpartition("/")[2]
        self._queue = queue
        self._url = queue if "://" in queue else ""
        self._client: Any = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sqs")
        self._stopping = False
        self._problem = ""
        self._calls: set[asyncio.Task[None]] = set()
        """Answers on their way that nobody waits for."""

    def needs(self) -> Sequence[Need]:
        return (Need(f"queue {self._queue}", self._look),)

    async def start(self) -> None:
        pass  # boto3 connects at its first call

    async def receive(self, limit: int, max_bytes: int, visibility_s: float, wait_s: float) -> list[Message]:
        deadline = time.monotonic() + wait_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            try:
                messages = await self._receive(limit, max_bytes, int(visibility_s), min(POLL_S, round(left_s)))
            except _FAILURES as error:
                self._problem = str(error)
                if time.monotonic() + PAUSE_S >= deadline or self._stopping:
                    await asyncio.sleep(max(0.0, deadline - time.monotonic()) if not self._stopping else 0)
                    raise Unavailable(f"SQS: {error}; call again") from None
                await asyncio.sleep(PAUSE_S)
                continue
            self._problem = ""
            if messages or left_s < 0.5 or self._stopping:
                return messages

    def acknowledge(self, messages: Sequence[Message]) -> None:
        self._begin("delete_message_batch", messages, {})

    def extend(self, messages: Sequence[Message]) -> None:
        self._begin("change_message_visibility_batch", messages, {"VisibilityTimeout": int(self.visibility_s)})

    def give_back(self, messages: Sequence[Message], delay_s: float = 0.0) -> None:
        self._begin("change_message_visibility_batch", messages, {"VisibilityTimeout": int(delay_s)})

    async def settle(self) -> None:
        while self._calls:
            await asyncio.wait(self._calls)

    def receipt(self, message: Message) -> str:
        return message.handle

    async def delete(self, receipts: Sequence[str]) -> list[Result]:
        return await self._answer("delete_message_batch", receipts, {})

    async def change_visibility(self, receipts: Sequence[str], visibility_s: float) -> list[Result]:
        return await self._answer("change_message_visibility_batch", receipts, {"VisibilityTimeout": int(visibility_s)})

    def key(self, receipt: str) -> str:
        """A receipt handle tells nothing but itself."""
        return receipt

    async def backlog(self) -> Backlog:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        try:
            answer = await self._call("get_queue_attributes", AttributeNames=names)
        except _FAILURES as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in _GONE:
                raise self._gone() from None
            raise Unavailable(f"SQS: {error}; call again") from None
        return Backlog(sum(int(answer["Attributes"][name]) for name in names))

    async def take_no_more(self) -> None:
        self._stopping = True

    def problem(self) -> str:
        return self._problem

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _receive(self, limit: int, max_bytes: int, visibility_s: int, wait_s: int) -> list[Message]:
        """Calls of ten until there are enough, or one brings less than it could."""
        messages: list[Message] = []
        size = 0
        while len(messages) < limit and not self._stopping:
            wanted = min(CALL_MESSAGES, limit - len(messages))
            try:
                answer = await self._call(
                    "receive_message", MaxNumberOfMessages=wanted, VisibilityTimeout=visibility_s,
                    WaitTimeSeconds=0 if messages else wait_s,
                    MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"],
                )  # fmt: skip
            except _FAILURES:
                if messages:
                    return messages
                raise
            received = [_message(message) for message in answer.get("Messages", ())]
            room = [message for message in received if (size := size + message.size) <= max_bytes]
            messages += room
            if len(room) < len(received):
                self.give_back(received[len(room) :])
                break
            if len(received) < wanted:
                break
        return messages

    def _begin(self, call: str, messages: Sequence[Message], extra: dict[str, Any]) -> None:
        if messages:
            task = asyncio.create_task(self._answer_and_tell(call, [message.handle for message in messages], extra))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _answer_and_tell(self, call: str, receipts: Sequence[str], extra: dict[str, Any]) -> None:
        for result in await self._answer(call, receipts, extra):
            if not isinstance(result, Done):
                _failed.warning(call, call=call, error=str(result))

    async def _answer(self, call: str, receipts: Sequence[str], extra: dict[str, Any]) -> list[Result]:
        starts = range(0, len(receipts), CALL_MESSAGES)
        calls = [self._entries(call, receipts[start : start + CALL_MESSAGES], extra) for start in starts]
        return [result for results in await asyncio.gather(*calls) for result in results]

    async def _entries(self, call: str, receipts: Sequence[str], extra: dict[str, Any]) -> list[Result]:
        entries = [{"Id": str(number), "ReceiptHandle": receipt, **extra} for number, receipt in enumerate(receipts)]
        try:
            answer = await self._call(call, Entries=entries)
        except _FAILURES as error:
            return [_failure(error.response["Error"] if isinstance(error, ClientError) else {}, error)] * len(receipts)
        results: list[Result] = [Done(receipt) for receipt in receipts]
        for failed in answer.get("Failed", ()):
            results[int(failed["Id"])] = _failure(failed, failed.get("Message") or failed["Code"])
        return results

    async def _look(self) -> str:
        try:
            await self._run(self._open)
            return f"backlog {(await self.backlog()).messages}"
        except (*_FAILURES, ValueError, Unavailable) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in _GONE:
                raise self._gone() from None
            problem = f"queue {self._queue} cannot be read: {error}"
            raise ServiceError(problem, "see the task's AWS credentials and region") from None

    def _gone(self) -> ServiceError:
        return ServiceError(f"queue {self._queue} does not exist", f"make it, or correct {self._variable}")

    def _open(self) -> None:
        if self._client is None:
            config = Config(max_pool_connections=THREADS, read_timeout=POLL_S + 10, retries={"mode": "standard"})
            # botocore itself reads only AWS_DEFAULT_REGION and the profile.
            self._client = boto3.client("sqs", region_name=os.environ.get("AWS_REGION"), config=config)
        if not self._url:
            self._url = self._client.get_queue_url(QueueName=self._queue)["QueueUrl"]

    async def _call(self, name: str, **request: Any) -> Any:
        return await self._run(functools.partial(getattr(self._client, name), QueueUrl=self._url, **request))

    def _run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)


def _failure(error: Any, said: object) -> Result:
    if error.get("Code") in _UNKNOWN:
        return UnknownReceipt(f"SQS: {said}; give the messageID as it was received")
    return Unavailable(f"SQS: {said}; call again")


def _message(message: dict[str, Any]) -> Message:
    system, attributes = message["Attributes"], message.get("MessageAttributes", {})
    headers = tuple((name, value["StringValue"]) for name, value in attributes.items() if "StringValue" in value)
    data, handle = message["Body"].encode(), message["ReceiptHandle"]
    return Message(
        handle=handle,
        id=message["MessageId"],
        sequence=None,
        data=data,
        subject=b"",
        headers=headers,
        times_received=int(system["ApproximateReceiveCount"]),
        sent_ns=int(system["SentTimestamp"]) * MS,
        size=len(data) + len(handle) + sum(len(name) + len(value) for name, value in headers),
    )
