"""Messages as a gRPC response carries them, never more of them than a client's library takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from service.queue import sqs_pb2 as pb
from service.sources.source import Message

GRPC_BYTES: Final = 4 * 1024 * 1024
"""A client's library fails at more, and the messages would stay invisible."""
RESPONSE_BYTES: Final = 3_500_000
"""What a source is asked for. A response of as much can be larger: a byte that is no UTF-8 becomes three."""
FRAMING_BYTES: Final = 8
"""At most, around each message of a response."""
GROWTH: Final = 4
ENVELOPE_BYTES: Final = 512
"""A message takes no more than this and `GROWTH` times its own bytes: measuring costs as much as sending."""


def make(messages: Sequence[Message], receipt: Callable[[Message], str]) -> pb.SQSReceiveMessageResponse:
    """A response with the first of the messages: as many as it can carry, at least one."""
    made = [_message(message, receipt(message)) for message in messages]
    if sum(GROWTH * message.size + ENVELOPE_BYTES for message in messages) > GRPC_BYTES:
        made = made[: max(1, _that_fit(made))]
    return pb.SQSReceiveMessageResponse(messages=made)


def _that_fit(made: Sequence[pb.SQSResponseMessage]) -> int:
    left = GRPC_BYTES
    for number, one in enumerate(made):
        left -= one.ByteSize() + FRAMING_BYTES
        if left < 0:
            return number
    return len(made)


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
