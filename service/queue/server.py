"""The calls of `sqs.SQSService`, on whatever source there is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import grpc
from google.protobuf import empty_pb2

from service.queue import sqs_pb2 as pb
from service.sources.source import Done, Message, Result, Source, Unavailable, UnknownReceipt

VISIBILITY_MAX_S: Final = 43_200
WAIT_MAX_S: Final = 20
MESSAGES_MAX: Final = 1000
RESPONSE_BYTES: Final = 3_500_000
"""A client fails at gRPC's 4 MiB, and the messages would stay invisible."""
STREAM_WAIT_S: Final = 5.0
STREAM_POLL_S: Final = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Counts:
    received: int = 0
    deleted: int = 0
    refused: int = 0
    """Receipts and calls that were answered with an error."""


@dataclass(eq=False)
class _Stream:
    """What one `StreamMessages` has out: each message's key, and until when it is invisible."""

    limit: int
    out: dict[str, float] = field(default_factory=dict)
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def room(self) -> int:
        now = time.monotonic()
        for key in [key for key, until in self.out.items() if until <= now]:
            del self.out[key]
        return self.limit - len(self.out)


class SQSService:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._streams: set[_Stream] = set()
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()
        self.counts = Counts()

    async def stop(self) -> None:
        """Waiting receives and streams end with what they have."""
        self._stopping.set()
        for stream in self._streams:
            stream.freed.set()
        await self._source.take_no_more()

    async def idle(self) -> None:
        """Return when no call is in flight and its answer is sent."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def ReceiveMessage(  # noqa: N802
        self, request: pb.SQSReceiveMessageRequest, context: Context
    ) -> pb.SQSReceiveMessageResponse:
        self._track()
        await self._within(context, "visibility_timeout", request.visibility_timeout, 0, VISIBILITY_MAX_S)
        await self._within(context, "wait_time", request.wait_time, 0, WAIT_MAX_S)
        limit = request.maximum_number_of_messages
        await self._within(context, "maximum_number_of_messages", limit, 1, MESSAGES_MAX)
        try:
            messages = await self._source.receive(limit, RESPONSE_BYTES, request.visibility_timeout, request.wait_time)
        except Unavailable as error:
            await self._abort(context, grpc.StatusCode.UNAVAILABLE, str(error))
        self.counts.received += len(messages)
        return self._response(messages)

    async def DeleteMessage(self, request: pb.SQSDeleteMessageRequest, context: Context) -> empty_pb2.Empty:  # noqa: N802
        self._track()
        (result,) = await self._delete([request.messageID])
        if not isinstance(result, Done):
            await self._abort(context, _status(result), str(result))
        return empty_pb2.Empty()

    async def DeleteMessages(  # noqa: N802
        self, request: pb.SQSDeleteMessagesRequest, context: Context
    ) -> pb.SQSResultsResponse:
        self._track()
        await self._within(context, "the number of messageIDs", len(request.messageIDs), 1, MESSAGES_MAX)
        return self._results(request.messageIDs, await self._delete(list(request.messageIDs)))

    async def ChangeVisibility(  # noqa: N802
        self, request: pb.SQSChangeVisibilityRequest, context: Context
    ) -> pb.SQSResultsResponse:
        self._track()
        await self._within(context, "the number of messageIDs", len(request.messageIDs), 1, MESSAGES_MAX)
        await self._within(context, "visibility_timeout", request.visibility_timeout, 0, VISIBILITY_MAX_S)
        results = await self._source.change_visibility(list(request.messageIDs), request.visibility_timeout)
        until = time.monotonic() + request.visibility_timeout
        for receipt, result in zip(request.messageIDs, results, strict=True):
            if isinstance(result, Done):
                self._moved(receipt, until)
        return self._results(request.messageIDs, results)

    async def StreamMessages(  # noqa: N802
        self, request: pb.SQSStreamMessagesRequest, context: Context
    ) -> AsyncIterator[pb.SQSReceiveMessageResponse]:
        self._track()
        visibility_s = request.visibility_timeout
        await self._within(context, "visibility_timeout", visibility_s, 1, VISIBILITY_MAX_S)
        limit = request.maximum_number_of_messages
        await self._within(context, "maximum_number_of_messages", limit, 1, MESSAGES_MAX)
        stream = _Stream(limit)
        self._streams.add(stream)
        try:
            while not self._stopping.is_set():
                room = stream.room()
                if room <= 0:
                    await _wait(stream.freed)
                    continue
                try:
                    messages = await self._source.receive(room, RESPONSE_BYTES, visibility_s, STREAM_WAIT_S)
                except Unavailable as error:
                    await self._abort(context, grpc.StatusCode.UNAVAILABLE, str(error))
                if messages:
                    until = time.monotonic() + visibility_s
                    response = self._response(messages)
                    stream.out.update((self._source.key(made.messageID), until) for made in response.messages)
                    self.counts.received += len(messages)
                    yield response
        finally:
            self._streams.discard(stream)

    def _response(self, messages: Sequence[Message]) -> pb.SQSReceiveMessageResponse:
        return pb.SQSReceiveMessageResponse(messages=map(_message, messages, map(self._source.receipt, messages)))

    def _track(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  gRPC runs each call, with the sending of its answer, in a task of its own
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _delete(self, receipts: Sequence[str]) -> list[Result]:
        results = await self._source.delete(receipts)
        for receipt, result in zip(receipts, results, strict=True):
            if isinstance(result, Done):
                self.counts.deleted += 1
                self._moved(receipt, 0.0)
        return results

    def _moved(self, receipt: str, until: float) -> None:
        if not self._streams:
            return
        key = self._source.key(receipt)
        for stream in self._streams:
            if key in stream.out:
                stream.out[key] = until
                stream.freed.set()

    def _results(self, receipts: Sequence[str], results: Sequence[Result]) -> pb.SQSResultsResponse:
        response = pb.SQSResultsResponse()
        for receipt, result in zip(receipts, results, strict=True):
            if isinstance(result, Done):
                response.results.add(messageID=result.receipt)
            else:
                self.counts.refused += 1
                response.results.add(messageID=receipt, code=_status(result).value[0], error=str(result))
        return response

    async def _within(self, context: Context, name: str, value: int, least: int, most: int) -> None:
        if not least <= value <= most:
            said = f"{name} is {value}; give {least} to {most}"
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, said)

    async def _abort(self, context: Context, code: grpc.StatusCode, said: str) -> NoReturn:
        self.counts.refused += 1
        await context.abort(code, said)
        raise AssertionError("abort raises")


async def _wait(freed: asyncio.Event) -> None:
    freed.clear()
    try:
        async with asyncio.timeout(STREAM_POLL_S):
            await freed.wait()
    except TimeoutError:
        return  # a visibility may have ended


def _status(result: UnknownReceipt | Unavailable) -> grpc.StatusCode:
    return grpc.StatusCode.NOT_FOUND if isinstance(result, UnknownReceipt) else grpc.StatusCode.UNAVAILABLE


def _message(message: Message, receipt: str) -> pb.SQSResponseMessage:
    made = pb.SQSResponseMessage(
        messageID=receipt,
        subject=message.subject.decode(errors="replace"),
        headers=[pb.SQSHeader(name=name, value=value) for name, value in message.headers],
        times_received=message.times_received,
        time_sent_ms=message.sent_ns // 1_000_000,
        id=message.id,
    )
    try:
        made.messageBody = message.data.decode()
    except UnicodeDecodeError:
        made.data = message.data
    return made
