"""Encode messages as a gRPC response that no client library refuses for its size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from service.queue import sqs_pb2 as pb
from service.sources.jetstream.message import StreamMessage
from service.sources.sqs.message import QueueMessage

GRPC_BYTES: Final = 4 * 1024 * 1024
"""Client libraries fail on a larger response, and its messages would stay invisible."""
RESPONSE_BYTES: Final = 3_500_000
"""Bytes to ask a source for. The response may be larger: an invalid UTF-8 byte of subject or headers becomes three."""
FRAMING_BYTES: Final = 8
"""Most bytes that encoding adds around each message of a response."""


Message = StreamMessage | QueueMessage


def make(messages: Sequence[Message], receipts: Sequence[str]) -> tuple[bytes, int]:
    """Encode the first messages that fit into one response; return it, and how many they are: at least one."""
    made = [_message(message, receipt) for message, receipt in zip(messages, receipts, strict=True)]
    data: bytes = pb.SQSReceiveMessageResponse(messages=made).SerializeToString()
    if len(data) <= GRPC_BYTES:
        return data, len(made)
    sizes = accumulate(one.ByteSize() + FRAMING_BYTES for one in made)
    count = max(1, sum(size <= GRPC_BYTES for size in sizes))
    return pb.SQSReceiveMessageResponse(messages=made[:count]).SerializeToString(), count


def _message(message: Message, receipt: str) -> pb.SQSResponseMessage:
    made = pb.SQSResponseMessage(
        messageID=receipt,
        subject=message.subject.decode(errors="replace") if isinstance(message, StreamMessage) else "",
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
