"""Serve the calls of `sqs.SQSService` from any source."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf import empty_pb2

from service.contracts import queue as contract
from service.grpc.calls import Calls, Context, register
from service.queue import sqs_pb2 as pb
from service.queue.unread import UNREAD_BYTES, Full, UnreadResponses
from service.sources.source import Done, ReceiptSource, Result, TooLong, UnknownReceipt, Unreachable

VISIBILITY_MAX_S: Final = 43_200
WAIT_MAX_S: Final = 20
MESSAGES_MAX: Final = 1000
STREAM_WAIT_S: Final = 5.0
STREAM_POLL_S: Final = 1.0


@dataclass
class Counts:
    received: int = 0
    deleted: int = 0


@dataclass(eq=False)
class _Stream:
    """One `StreamMessages` call: the key of each message it has out -> when its visibility timeout ends."""

    limit: int
    out: dict[str, float] = field(default_factory=dict)
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def room(self) -> int:
        now = time.monotonic()
        for key in [key for key, until in self.out.items() if until <= now]:
            del self.out[key]
        return self.limit - len(self.out)


class SQSService:
    """The five calls. A request out of range ends with INVALID_ARGUMENT; UNAVAILABLE means: call again."""

    def __init__(self, source: ReceiptSource[Any]) -> None:
        self._source = source
        self._unread = UnreadResponses(source)
        self._streams: set[_Stream] = set()
        self._stopping = asyncio.Event()
        self.calls = Calls()
        """`refused`: calls, and receipts within calls, answered with an error."""
        self.counts = Counts()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the calls. `ReceiveMessage` is a stream of one response here: the same on the wire, and the server
        learns whether the client took it.
        """
        one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        empty, results = empty_pb2.Empty.SerializeToString, pb.SQSResultsResponse.SerializeToString
        handlers = {
            "ReceiveMessage": many(self.ReceiveMessage, pb.SQSReceiveMessageRequest.FromString),
            "DeleteMessage": one(self.DeleteMessage, pb.SQSDeleteMessageRequest.FromString, empty),
            "DeleteMessages": one(self.DeleteMessages, pb.SQSDeleteMessagesRequest.FromString, results),
            "ChangeVisibility": one(self.ChangeVisibility, pb.SQSChangeVisibilityRequest.FromString, results),
            "StreamMessages": many(self.StreamMessages, pb.SQSStreamMessagesRequest.FromString),
        }
        register(server, contract.GRPC_SERVICE, handlers)

    async def stop(self) -> None:
        """End waiting receives and streams; each returns what it has."""
        self._stopping.set()
        self._unread.stop()
        for stream in self._streams:
            stream.freed.set()
        await self._source.take_no_more()

    async def ReceiveMessage(self, request: pb.SQSReceiveMessageRequest, context: Context) -> None:  # noqa: N802
        """Send the messages available now, else the first within `wait_time`; none is not an error.

        If the client goes away before its connection has taken the response, the messages become visible again.
        RESOURCE_EXHAUSTED when clients leave too much unread.
        """
        self.calls.enter()
        await self.calls.within(context, "visibility_timeout", request.visibility_timeout, 0, VISIBILITY_MAX_S)
        await self.calls.within(context, "wait_time", request.wait_time, 0, WAIT_MAX_S)
        limit = request.maximum_number_of_messages
        await self.calls.within(context, "maximum_number_of_messages", limit, 1, MESSAGES_MAX)
        if self._stopping.is_set():  # it came before gRPC refused new calls
            await self.calls.refuse(context, grpc.StatusCode.UNAVAILABLE, "the sidecar stops; call again")
        try:
            parcel = await self._unread.receive(limit, request.visibility_timeout, request.wait_time)
        except Unreachable as error:
            await self.calls.refuse(context, grpc.StatusCode.UNAVAILABLE, str(error))
        except Full:
            said = f"clients have not read {UNREAD_BYTES:,} bytes of messages; read them, or end those calls"
            await self.calls.refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, said)
        await self._unread.send(parcel, context)
        self.counts.received += len(parcel.receipts)

    async def DeleteMessage(self, request: pb.SQSDeleteMessageRequest, context: Context) -> empty_pb2.Empty:  # noqa: N802
        """Return when the queue has confirmed the deletion. NOT_FOUND for a receipt that is not this queue's."""
        self.calls.enter()
        (result,) = await self._delete([request.messageID])
        if not isinstance(result, Done):
            await self.calls.refuse(context, _status(result), str(result))
        return empty_pb2.Empty()

    async def DeleteMessages(  # noqa: N802
        self, request: pb.SQSDeleteMessagesRequest, context: Context
    ) -> pb.SQSResultsResponse:
        """Delete several; return a result per receipt, in order. Some may fail while others are deleted."""
        self.calls.enter()
        await self.calls.within(context, "the number of messageIDs", len(request.messageIDs), 1, MESSAGES_MAX)
        return self._results(request.messageIDs, await self._delete(list(request.messageIDs)))

    async def ChangeVisibility(  # noqa: N802
        self, request: pb.SQSChangeVisibilityRequest, context: Context
    ) -> pb.SQSResultsResponse:
        """Hide messages for `visibility_timeout` seconds from now, 0: visible at once; a result per receipt, in order.

        Each result has the receipt to use from now on.
        """
        self.calls.enter()
        await self.calls.within(context, "the number of messageIDs", len(request.messageIDs), 1, MESSAGES_MAX)
        await self.calls.within(context, "visibility_timeout", request.visibility_timeout, 0, VISIBILITY_MAX_S)
        keys = self._keys(request.messageIDs)
        results = await self._source.change_visibility(list(request.messageIDs), request.visibility_timeout)
        self._moved(keys, results, time.monotonic() + request.visibility_timeout)
        return self._results(request.messageIDs, results)

    async def StreamMessages(self, request: pb.SQSStreamMessagesRequest, context: Context) -> None:  # noqa: N802
        """Send messages as they come, until the sidecar stops or the client ends the call.

        At most `maximum_number_of_messages` are out: neither deleted nor visible again. Deletions count in whichever
        call of this sidecar they come.
        """
        self.calls.enter()
        visibility_s = request.visibility_timeout
        await self.calls.within(context, "visibility_timeout", visibility_s, 1, VISIBILITY_MAX_S)
        limit = request.maximum_number_of_messages
        await self.calls.within(context, "maximum_number_of_messages", limit, 1, MESSAGES_MAX)
        stream = _Stream(limit)
        self._streams.add(stream)
        try:
            while not self._stopping.is_set():
                if (room := stream.room()) > 0:
                    await self._next(stream, room, visibility_s, context)
                else:
                    await _wait(stream.freed)
        finally:
            self._streams.discard(stream)

    async def _next(self, stream: _Stream, room: int, visibility_s: int, context: Context) -> None:
        try:
            parcel = await self._unread.receive(room, visibility_s, STREAM_WAIT_S)
        except Unreachable as error:
            await self.calls.refuse(context, grpc.StatusCode.UNAVAILABLE, str(error))
        except Full:
            return
        if parcel.receipts:
            until = time.monotonic() + visibility_s
            # Before `send`: the client may delete a message before `send` returns.
            stream.out.update((self._key(receipt), until) for receipt in parcel.receipts)
            await self._unread.send(parcel, context)
            self.counts.received += len(parcel.receipts)

    async def _delete(self, receipts: Sequence[str]) -> list[Result]:
        keys = self._keys(receipts)
        results = await self._source.delete(receipts)
        self.counts.deleted += sum(isinstance(result, Done) for result in results)
        self._moved(keys, results, 0.0)
        return results

    def _keys(self, receipts: Sequence[str]) -> list[str]:
        """Return each receipt's key. Do it before the call: the consumer may be recreated meanwhile."""
        return [self._key(receipt) for receipt in receipts] if self._streams else []

    def _key(self, receipt: str) -> str:
        try:
            return self._source.key(receipt)
        except UnknownReceipt:
            return ""

    def _moved(self, keys: Sequence[str], results: Sequence[Result], until: float) -> None:
        for key, result in zip(keys, results, strict=False):
            for stream in self._streams:
                if isinstance(result, Done) and key in stream.out:
                    stream.out[key] = until
                    stream.freed.set()

    def _results(self, receipts: Sequence[str], results: Sequence[Result]) -> pb.SQSResultsResponse:
        response = pb.SQSResultsResponse()
        for receipt, result in zip(receipts, results, strict=True):
            if isinstance(result, Done):
                response.results.add(messageID=result.receipt)
            else:
                self.calls.refused += 1
                response.results.add(messageID=receipt, code=_status(result).value[0], error=str(result))
        return response


async def _wait(freed: asyncio.Event) -> None:
    freed.clear()
    try:
        async with asyncio.timeout(STREAM_POLL_S):
            await freed.wait()
    except TimeoutError:
        return  # a message's visibility may have ended meanwhile


def _status(result: UnknownReceipt | TooLong | Unreachable) -> grpc.StatusCode:
    match result:
        case UnknownReceipt():
            return grpc.StatusCode.NOT_FOUND
        case TooLong():
            return grpc.StatusCode.INVALID_ARGUMENT
        case Unreachable():
            return grpc.StatusCode.UNAVAILABLE
