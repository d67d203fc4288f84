"""What the archive asks of its source: never more than there is room for, and always enough for any one message."""

from __future__ import annotations

import asyncio
from typing import Any

from service.sources.jetstream.message import StreamMessage
from service.sources.source import Unreachable
from service.writing.intake import RECEIVES, Intake
from service.writing.ledger import Ledger
from tests.support.archive import delivered
from tests.support.world import eventually

REPLY = b"$JS.ACK.s.archive.1.1.1.1764052345123456789.0"
PORTION = (10, 1000)


class Asked:
    """A source whose receives wait until they are answered."""

    portion = PORTION
    visibility_s = 30.0

    def __init__(self) -> None:
        self.open: list[asyncio.Future[list[StreamMessage]]] = []

    async def receive(self, limit: int, max_bytes: int, visibility_s: float, wait_s: float) -> list[StreamMessage]:
        assert (limit, max_bytes) == self.portion
        answer: asyncio.Future[list[StreamMessage]] = asyncio.get_running_loop().create_future()
        self.open.append(answer)
        try:
            return await answer
        finally:
            self.open.remove(answer)

    async def take_no_more(self) -> None:
        for answer in self.open:
            if not answer.done():
                answer.set_result([])


def started(ledger: Ledger[StreamMessage]) -> tuple[Intake[StreamMessage], Asked]:
    source: Any = Asked()
    intake = Intake(source, ledger)
    intake.start()
    return intake, source


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_receives_as_there_is_room_for_in_messages_and_in_bytes() -> None:
    for messages, size, receives in ((35, 10_000, 3), (1000, 2_999, 2), (1000, 10_000, RECEIVES)):
        intake, source = started(Ledger(messages, size))
        await turns()
        assert len(source.open) == receives
        await intake.stop()


async def test_a_source_that_learns_its_messages_are_small_is_asked_side_by_side() -> None:
    ledger = Ledger[StreamMessage](1000, 1_500)
    intake, source = started(ledger)
    await turns()
    assert len(source.open) == 1
    source.portion = 10, 300
    source.open[0].set_result([delivered(b"a.b", REPLY, b"{}", b"")])
    await turns()
    ledger.forget(ledger.messages())  # as after a batch
    await turns()
    assert len(source.open) == RECEIVES
    await intake.stop()


async def test_a_message_larger_than_the_room_comes_through_when_nothing_else_is_held() -> None:
    ledger = Ledger[StreamMessage](1, 1)
    intake, source = started(ledger)
    await turns()
    assert len(source.open) == 1
    source.open[0].set_result([delivered(b"a.b", REPLY, b"x" * 900, b"")])
    await turns()
    assert (ledger.held, source.open) == (1, [])
    ledger.forget(ledger.messages())
    await turns()
    assert len(source.open) == 1
    await intake.stop()


async def test_a_failed_receive_is_not_the_last_one() -> None:
    intake, source = started(Ledger(10, 1000))
    await turns()
    source.open[0].set_exception(Unreachable("away"))
    await eventually(lambda: len(source.open) == 1 and not source.open[0].done(), what="another receive")
    source.open[0].set_exception(KeyError("no such attribute"))
    await eventually(lambda: len(source.open) == 1 and not source.open[0].done(), what="another receive")
    await intake.stop()


async def test_what_a_receive_brings_while_stopping_is_taken() -> None:
    ledger = Ledger[StreamMessage](10, 1000)
    intake, source = started(ledger)
    await turns()
    source.open[0].set_result([delivered(b"a.b", REPLY, b"{}", b"")])
    await intake.stop()
    assert ledger.held == 1
