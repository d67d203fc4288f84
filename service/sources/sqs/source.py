"""An SQS queue, through boto3 in threads: ten messages per call, long polling, the SDK's credentials.

The queue's own redrive policy sets aside messages that are received too often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog

from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need
from service.runtime.threads import in_thread
from service.sources.source import Backlog, Done, Result, TooLong, UnknownReceipt, Unreachable
from service.sources.sqs import answers as sqs_answers
from service.sources.sqs.answers import FAILURES, said
from service.sources.sqs.calls import POLL_S, Calls, Timing
from service.sources.sqs.message import QueueMessage

log: Final = structlog.get_logger("service.sources")
_failed: Final = Repeated(log, "SQS call failed")

CALL_MESSAGES: Final = 10
MESSAGE_BYTES: Final = 1024 * 1024 + 1024
"""SQS's limits: messages per call, and bytes of a message with its receipt handle."""
SMALL_BYTES: Final = 64 * 1024, 256 * 1024
"""Sizes to budget for a message: ten of these fit into any response, and smaller ones leave room for more receives."""
PAUSE_S: Final = 0.5
CLOSE_S: Final = 0.9

DELETE: Final = "delete_message_batch"
CHANGE: Final = "change_message_visibility_batch"


class Sqs:
    """A queue by URL, or by name in the SDK's region. `variable` is the environment variable that gave `queue`."""

    visibility_s = 60.0

    def __init__(self, queue: str, variable: str, *, timing: Timing = Timing()) -> None:
        self._variable = variable
        self._queue = queue
        self._shown = sqs_answers.without_user(queue)
        self.name = self._shown.rstrip("/").rpartition("/")[2]
        self._url = queue if "://" in queue else ""
        self._calls = Calls(self._url, timing)
        self._largest_bytes = 0
        self._stopping = False
        self._problem = ""
        self._answers: set[asyncio.Task[None]] = set()
        """Answers in flight that no caller waits for."""

    @property
    def portion(self) -> tuple[int, int]:
        return CALL_MESSAGES, max(CALL_MESSAGES * self._likely_bytes(), MESSAGE_BYTES)

    def needs(self) -> Sequence[Need]:
        return (Need(f"queue {self._shown}", self._look),)

    async def start(self) -> None:
        pass  # boto3 connects at the first call

    async def receive(self, limit: int, max_bytes: int, visibility_s: float, wait_s: float) -> list[QueueMessage]:
        deadline = time.monotonic() + wait_s
        while True:
            asked = time.monotonic()
            left_s = max(0.0, deadline - asked)
            try:
                messages = await self._receive(limit, max_bytes, int(visibility_s), min(POLL_S, round(left_s)))
            except FAILURES as error:
                self._problem = said(error)
                if time.monotonic() + PAUSE_S >= deadline or self._stopping:
                    await asyncio.sleep(max(0.0, deadline - time.monotonic()) if not self._stopping else 0)
                    raise Unreachable(f"SQS: {said(error)}; call again") from None
                await asyncio.sleep(PAUSE_S)
                continue
            if messages or left_s < 0.5 or self._stopping:
                return messages
            await asyncio.sleep(asked + PAUSE_S - time.monotonic())  # not at all after a poll that waited

    def acknowledge(self, messages: Sequence[QueueMessage]) -> None:
        self._begin(DELETE, [message.handle for message in messages], {})

    def extend(self, messages: Sequence[QueueMessage]) -> None:
        self._change([message.handle for message in messages], self.visibility_s)

    def give_back(self, messages: Sequence[QueueMessage], delay_s: float = 0.0) -> None:
        self._change([message.handle for message in messages], delay_s)

    async def settle(self) -> None:
        while pending := {*self._answers, *self._calls.left}:
            await asyncio.wait(pending)

    def receipt(self, message: QueueMessage) -> str:
        return message.handle

    async def delete(self, receipts: Sequence[str]) -> list[Result]:
        return await self._answer(DELETE, receipts, {})

    async def change_visibility(self, receipts: Sequence[str], visibility_s: float) -> list[Result]:
        return await self._answer(CHANGE, receipts, {"VisibilityTimeout": int(visibility_s)})

    def release(self, receipts: Sequence[str]) -> None:
        self._change(receipts, 0.0)

    def key(self, receipt: str) -> str:
        """Return the receipt itself: a receipt handle does not reveal its message."""
        return receipt

    async def backlog(self) -> Backlog:
        names = list(sqs_answers.BACKLOG)
        try:
            answer = await self._calls.answer("get_queue_attributes", QueueUrl=self._url, AttributeNames=names)
            return sqs_answers.backlog(answer)
        except FAILURES as error:
            if sqs_answers.is_gone(error):
                raise self._gone() from None
            raise Unreachable(f"SQS: {said(error)}; call again") from None

    async def take_no_more(self) -> None:
        self._stopping = True

    def problem(self) -> str:
        return self._problem

    async def close(self) -> None:
        """Wait up to `CLOSE_S` seconds for answers that a drain without time left has started."""
        if self._answers:
            await asyncio.wait(self._answers, timeout=CLOSE_S)

    async def _receive(self, limit: int, max_bytes: int, visibility_s: int, wait_s: int) -> list[QueueMessage]:
        """Call for ten at a time until there are enough, or a call returns fewer than it asked for."""
        messages: dict[str, QueueMessage] = {}
        size = 0
        try:
            while wanted := self._wanted(limit - len(messages), max_bytes - size, first=not messages):
                received = await self._poll(wanted, visibility_s, 0 if messages else wait_s)
                is_last = len(received) < wanted or not visibility_s
                for number, message in enumerate(received):
                    if size + message.size > max_bytes and messages:
                        self._let_go([message.handle for message in received[number:]], visibility_s)
                        return list(messages.values())
                    is_last = is_last or message.id in messages  # visible again already: the loop would never end
                    size += message.size
                    messages[message.id] = message
                if is_last:
                    break
        except FAILURES:
            if not messages:
                raise
        except asyncio.CancelledError:
            self._let_go([message.handle for message in messages.values()], visibility_s)
            raise
        return list(messages.values())

    def _wanted(self, limit: int, room: int, *, first: bool) -> int:
        """Return how many to ask for so that none must be given back: that would count as a receive."""
        if self._stopping or (not first and self._calls.is_busy()):
            return 0
        return min(CALL_MESSAGES, limit, max(room // self._likely_bytes(), int(first)))

    def _likely_bytes(self) -> int:
        """Return the size to expect of a message: the maximum, unless only small ones were seen so far."""
        fitting = (size for size in SMALL_BYTES if 0 < self._largest_bytes <= size)
        return next(fitting, MESSAGE_BYTES)

    async def _poll(self, wanted: int, visibility_s: int, wait_s: int) -> list[QueueMessage]:
        answer = await self._calls.receive(
            POLL_S, lambda late: self._let_go(sqs_answers.handles(late), visibility_s),
            QueueUrl=self._url, MaxNumberOfMessages=wanted, VisibilityTimeout=visibility_s, WaitTimeSeconds=wait_s,
            MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"],
        )  # fmt: skip
        if answer is None:
            return []
        received = sqs_answers.messages(answer)
        self._problem = ""
        self._largest_bytes = max(self._largest_bytes, *(message.size for message in received), 0)
        return received

    def _let_go(self, receipts: Sequence[str], visibility_s: int) -> None:
        """Make messages visible that no caller will get. With visibility 0 they already are, and may be another's."""
        if visibility_s:
            self._change(receipts, 0.0)

    def _change(self, receipts: Sequence[str], visibility_s: float) -> None:
        self._begin(CHANGE, receipts, {"VisibilityTimeout": int(visibility_s)})

    def _begin(self, call: str, receipts: Sequence[str], extra: dict[str, Any]) -> None:
        if receipts:
            task = asyncio.create_task(self._answer_and_tell(call, receipts, extra))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

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
        again = extra.get("VisibilityTimeout") != 0  # a retry could take a message from its next receiver
        try:
            answer = await self._calls.answer(call, again=again, QueueUrl=self._url, Entries=entries)
        except FAILURES as error:
            failure = sqs_answers.failure(error)
            if isinstance(failure, UnknownReceipt | TooLong) and len(receipts) > 1:  # one bad entry fails the call
                return [result for receipt in receipts for result in await self._entries(call, [receipt], extra)]
            return [failure] * len(receipts)
        return sqs_answers.results(answer, receipts)

    async def _look(self) -> str:
        if self._shown != self._queue:
            raise ServiceError(
                f"{self._variable} has a user in its URL", "leave it out: the AWS SDK's credentials are used"
            )
        try:
            await self._open()
            return f"backlog {(await self.backlog()).messages}"
        except (*FAILURES, ValueError, Unreachable) as error:
            if sqs_answers.is_gone(error):
                raise self._gone() from None
            problem = f"queue {self._shown} cannot be read: {said(error)}"
            raise ServiceError(problem, "see the task's AWS credentials and region") from None

    def _gone(self) -> ServiceError:
        return ServiceError(f"queue {self._shown} does not exist", f"make it, or correct {self._variable}")

    async def _open(self) -> None:
        await in_thread(self._calls.open, "sqs")
        if not self._url:
            self._url = sqs_answers.queue_url(await self._calls.answer("get_queue_url", QueueName=self._queue))
