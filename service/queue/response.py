"""Messages as a gRPC response carries them, never more of them than a client's library takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from service.queue import sqs_pb2 as pb
from service.sources.source import Message

GRPC_BYTES: Final = 4 * 1024 * 1024
"""A client's library fails at more, and the messages would stay invisible."""
RESPONSE_BYTES: Final = 3_500_000
"""What a source is asked for. A response of as much can be larger: a byte that is no UTF-8 becomes three."""
FRAMING_BYTES: Final = 8
"""At most, around each message of a response."""


def make(messages: Sequence[Message], receipt: Callable[[Message], str]) -> tuple[bytes, int]:
    """A response with the first of the messages, as the wire has it, and how many these are: at least one."""
    made = [_message(message, receipt(message)) for message in messages]
    data: bytes = pb.SQSReceiveMessageResponse(messages=made).SerializeToString()
    if len(data) <= GRPC_BYTES:
        return data, len(made)
    sizes = accumulate(one.ByteSize() + FRAMING_BYTES for one in made)
    count = max(1, sum(size <= GRPC_BYTES for size in sizes))
    return pb.SQSReceiveMessageResponse(messages=made[:count]).SerializeToString(), count


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
