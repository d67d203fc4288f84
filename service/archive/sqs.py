"""An SQS queue's messages, through boto3 in threads: ten a call, long polls side by side."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service.archive.event import Event, rfc3339
from service.archive.source import Backlog, Room
from service.dynamodb.endpoint import endpoint
from service.runtime.cancel import cancel
from service.runtime.errors import ServiceError
from service.runtime.logs import Repeated
from service.runtime.role import Need

log: Final = structlog.get_logger("service.archive")
_failed: Final = Repeated(log, "SQS call failed")

POLLS: Final = 4
CALL_MESSAGES: Final = 10
"""SQS' limit of a call."""
MESSAGE_BYTES: Final = 1024 * 1024
"""SQS' limit of a message, which bounds what one call brings."""
WAIT_S: Final = 5
VISIBILITY_S: Final = 60
PAUSE_S: Final = 1.0
MS: Final = 1_000_000
_GONE: Final = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}


class Sqs:
    """The queue of this name or URL, in the AWS SDK's region."""

    extend_every_s = VISIBILITY_S / 3
    discarded = 0
    """SQS does not tell: alarm on the age of its oldest message before its retention ends."""

    def __init__(self, queue: str) -> None:
        self.name = queue.rstrip("/").rpartition("/")[2].replace(".", "-")
        self._queue = queue
        self._url = queue if "://" in queue else ""
        self._client: Any = None
        self._threads = ThreadPoolExecutor(POLLS + 4, thread_name_prefix="sqs")
        self._room: Room
        self._space = asyncio.Event()
        self._receiving: list[asyncio.Task[None]] = []
        self._asked = 0
        self._stopping = False
        self._calls: set[asyncio.Task[None]] = set()

    def needs(self) -> Sequence[Need]:
        return (Need(f"queue {self._queue}", self._look),)

    async def start(self, room: Room) -> None:
        self._room = room
        self._receiving = [asyncio.create_task(self._receive(), name="receive") for _ in range(POLLS)]

    def more(self) -> None:
        self._space.set()

    async def take_no_more(self) -> None:
        """A poll that is on its way may bring messages: they are waited for, as nobody else could give them back."""
        self._stopping = True
        self._space.set()
        await asyncio.gather(*self._receiving, return_exceptions=True)

    async def backlog(self) -> Backlog | None:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        try:
            answer = await self._call("get_queue_attributes", AttributeNames=names)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in _GONE:
                raise ServiceError(
                    f"queue {self._queue} does not exist", "make it, or correct ARCHIVE_SOURCE"
                ) from None
            _failed.warning("get_queue_attributes", error=str(error))
            return None
        return Backlog(sum(int(answer["Attributes"][name]) for name in names))

    def acknowledge(self, events: Sequence[Event]) -> None:
        self._answer("delete_message_batch", events, {})

    def extend(self, events: Sequence[Event]) -> None:
        self._answer("change_message_visibility_batch", events, {"VisibilityTimeout": VISIBILITY_S})

    def give_back(self, events: Sequence[Event], delay_s: float = 0.0) -> None:
        self._answer("change_message_visibility_batch", events, {"VisibilityTimeout": int(delay_s)})

    async def settle(self) -> None:
        while self._calls:
            await asyncio.gather(*self._calls)

    async def close(self) -> None:
        for task in self._receiving:
            await cancel(task)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _receive(self) -> None:
        while not self._stopping:
            if not self._has_room():
                self._space.clear()
                await self._space.wait()
                continue
            self._asked += CALL_MESSAGES
            try:
                answer = await self._call(
                    "receive_message", MaxNumberOfMessages=CALL_MESSAGES, WaitTimeSeconds=WAIT_S,
                    VisibilityTimeout=VISIBILITY_S, MessageSystemAttributeNames=["SentTimestamp"],
                )  # fmt: skip
            except (BotoCoreError, ClientError) as error:
                _failed.warning("receive_message", error=str(error))
                await asyncio.sleep(PAUSE_S)
                continue
            finally:
                self._asked -= CALL_MESSAGES
            for message in answer.get("Messages", ()):
                self._room.take(make_event(message))

    def _has_room(self) -> bool:
        events, size = self._room.room()
        asked = self._asked
        return (events - asked >= CALL_MESSAGES and size - asked * MESSAGE_BYTES >= CALL_MESSAGES * MESSAGE_BYTES) or (
            not asked and self._room.is_empty()
        )

    def _answer(self, call: str, events: Sequence[Event], extra: dict[str, Any]) -> None:
        for start in range(0, len(events), CALL_MESSAGES):
            entries = [
                {"Id": str(number), "ReceiptHandle": event.handle, **extra}
                for number, event in enumerate(events[start : start + CALL_MESSAGES])
            ]
            task = asyncio.create_task(self._entries(call, entries))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _entries(self, call: str, entries: list[dict[str, Any]]) -> None:
        """What is not taken is delivered again, and its row written over itself."""
        try:
            answer = await self._call(call, Entries=entries)
        except (BotoCoreError, ClientError) as error:
            _failed.warning(call, error=str(error))
            return
        for failed in answer.get("Failed", ()):
            _failed.warning(call, error=str(failed.get("Message") or failed.get("Code")))

    async def _look(self) -> str:
        try:
            await self._run(self._open)
        except (BotoCoreError, ClientError, ValueError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in _GONE:
                raise ServiceError(
                    f"queue {self._queue} does not exist", "make it, or correct ARCHIVE_SOURCE"
                ) from None
            raise ServiceError(
                f"queue {self._queue} cannot be read: {error}", "see the task's AWS credentials and region"
            ) from None
        backlog = await self.backlog()
        return f"backlog {backlog.messages}" if backlog else "backlog unknown"

    def _open(self) -> None:
        if self._client is None:
            config = Config(max_pool_connections=POLLS + 4, read_timeout=WAIT_S + 10, retries={"mode": "standard"})
            self._client = boto3.client("sqs", region_name=endpoint()[1], config=config)
        if not self._url:
            self._url = self._client.get_queue_url(QueueName=self._queue)["QueueUrl"]

    async def _call(self, name: str, **request: Any) -> Any:
        return await self._run(functools.partial(getattr(self._client, name), QueueUrl=self._url, **request))

    def _run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)


def make_event(message: dict[str, Any]) -> Event:
    """The event of a queue's message: its id is the client's place in the key, its sent time the event's."""
    sent_ms = int(message["Attributes"]["SentTimestamp"])
    time = rfc3339(sent_ms * MS)
    body = message["Body"].encode()
    return Event(
        client_id=message["MessageId"],
        key=f"{time}#{message['MessageId']}",
        time=time,
        time_s=sent_ms // 1000,
        sequence=None,
        body=body,
        msg_id="",
        handle=message["ReceiptHandle"],
        size=len(body),
    )
