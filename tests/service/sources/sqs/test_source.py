"""The source `Sqs` by itself, on moto's SQS, behind a proxy that answers in its place, or not at all."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from service.runtime.errors import ServiceError
from service.sources.source import Done, UnknownReceipt, Unreachable
from service.sources.sqs.calls import RECEIVES, Timing
from service.sources.sqs.source import MESSAGE_BYTES, Sqs
from tests.support.dynamodb.faulty import answer, refusal
from tests.support.queue.sqs import RESPONSE_BYTES, Queue, kinds, reading, receive

READABLE = {
    "MessageId": "1", "ReceiptHandle": "one", "Body": "good",
    "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1"},
}  # fmt: skip


@pytest.mark.parametrize(
    "body", [b"<html>sign in</html>", b"", b"[1,2]", b'"text"', b'{"Successful": [5], "Messages": [5]}', b"\xff"]
)
async def test_a_success_that_is_not_sqs_own_is_unavailable(queue: Queue, body: bytes) -> None:
    await queue.send(1)
    async with reading(queue) as source:
        (message,) = await receive(source, 1)
        queue.proxy.fault = lambda _action, _call: web.Response(body=body)
        with pytest.raises(Unreachable, match="not SQS' own"):
            await receive(source)
        assert source.problem()
        for results in (await source.delete([message.handle]), await source.change_visibility([message.handle], 9)):
            assert kinds(results) == [Unreachable]
        with pytest.raises(Unreachable, match="not SQS' own"):
            await source.backlog()
        with pytest.raises(ServiceError, match="cannot be read"):
            await Sqs(queue.name, "QUEUE").needs()[0].look()
        queue.proxy.fault = None
        assert await receive(source) == []
        assert not source.problem()
        assert kinds(await source.delete([message.handle])) == [Done]


async def test_only_what_sqs_names_as_done_is_done(queue: Queue) -> None:
    async with reading(queue) as source:
        said = {
            "Successful": [{"Id": "1"}, {"Id": "77"}],
            "Failed": [{"Id": "2", "Code": "ReceiptHandleIsInvalid", "SenderFault": True}],
        }
        queue.proxy.fault = lambda _action, _call: answer(said)
        assert kinds(await source.delete(["a", "b", "c"])) == [Unreachable, Done, UnknownReceipt]


async def test_a_message_that_cannot_be_read_takes_no_other_with_it(queue: Queue) -> None:
    async with reading(queue) as source:
        unreadable = {"MessageId": "2", "ReceiptHandle": "two", "Body": "no attributes"}
        surrogate = {**READABLE, "MessageId": "3", "Body": "\ud800"}
        queue.proxy.fault = lambda _action, _call: web.Response(
            text=json.dumps({"Messages": [unreadable, READABLE, surrogate]})
        )
        assert [(message.id, message.data) for message in await receive(source)] == [
            ("1", b"good"),
            ("3", b"\xed\xa0\x80"),
        ]
        queue.proxy.fault = lambda _action, _call: answer({"Messages": [unreadable]})
        with pytest.raises(Unreachable, match="KeyError: 'Attributes'"):
            await receive(source)


async def test_a_binary_attribute_is_handed_out_in_base64(queue: Queue) -> None:
    await queue.send(
        1,
        raw={"DataType": "Binary", "BinaryValue": b"\x00\x01\xff"},
        kind={"DataType": "String", "StringValue": "order"},
    )
    async with reading(queue) as source:
        (message,) = await receive(source, 1)
        assert sorted(message.headers) == [("kind", "order"), ("raw", "AAH/")]


async def test_a_receive_with_visibility_0_hands_out_each_message_once(queue: Queue) -> None:
    await queue.send(12)
    async with reading(queue) as source:
        for _ in range(3):
            messages = await receive(source, 100, visibility_s=0, wait_s=1)
            assert messages
            assert len({message.id for message in messages}) == len(messages)
            assert max(message.times_received for message in messages) <= 3
    assert await queue.counts("dead") == (0, 0)


async def test_a_message_that_comes_twice_in_one_receive_is_handed_out_once(queue: Queue) -> None:
    async with reading(queue) as source:
        comings = iter("abcdef")

        def again(_action: str, call: dict[str, Any]) -> web.Response:
            coming = next(comings)
            messages = [
                {**READABLE, "MessageId": str(number), "ReceiptHandle": f"{coming}{number}"}
                for number in range(call["MaxNumberOfMessages"])
            ]
            return answer({"Messages": messages})

        queue.proxy.fault = again
        messages = await receive(source, 100, visibility_s=1)
        assert len({message.id for message in messages}) == len(messages)
        assert queue.called("ReceiveMessage") == 2
        assert messages[0].handle == "b0", "the newer receipt is the one that SQS accepts for certain"


async def test_no_message_is_received_that_exceeds_the_response(queue: Queue) -> None:
    queue.receive_at_most(1)
    await queue.send(8, "x" * 900_000)
    async with reading(queue) as source:
        handed: set[str] = set()
        while messages := await receive(source):
            assert sum(message.size for message in messages) <= RESPONSE_BYTES
            handed |= {message.id for message in messages}
            assert set(kinds(await source.delete([message.handle for message in messages]))) == {Done}
        assert len(handed) == 8
        assert queue.called("ChangeMessageVisibilityBatch") == 0
    assert await queue.counts("dead") == (0, 0)


async def test_small_messages_come_ten_a_call(queue: Queue) -> None:
    await queue.send(33)
    async with reading(queue) as source:
        assert len(await receive(source, 33)) == 33
        asked = [call["MaxNumberOfMessages"] for action, call in queue.proxy.calls if action == "ReceiveMessage"]
        assert asked == [3, 10, 10, 10]


async def test_a_portion_is_what_ten_of_the_largest_message_so_far_may_take(queue: Queue) -> None:
    async with reading(queue) as source:
        assert source.portion == (10, 10 * MESSAGE_BYTES), "nothing is known"
        for body_bytes, portion_bytes in ((5, MESSAGE_BYTES), (100_000, 10 * 256 * 1024), (5, 10 * 256 * 1024)):
            await queue.send(1, "x" * body_bytes)
            assert len(await receive(source)) == 1
            assert source.portion == (10, portion_bytes)


async def test_what_comes_for_a_caller_that_has_left_is_given_back(queue: Queue) -> None:
    """It was cancelled when some messages were there, and more on their way."""
    await queue.send(8)
    async with reading(queue) as source:
        second, go_on = asyncio.Event(), asyncio.Event()

        async def hold(action: str, _call: dict[str, Any]) -> None:
            if action == "ReceiveMessage" and queue.called(action) == 2:
                second.set()
                await go_on.wait()

        queue.proxy.fault = hold
        receiving = asyncio.create_task(receive(source, 100))
        await asyncio.wait_for(second.wait(), 10)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await queue.until_all_are_visible(8)
        go_on.set()
        await source.settle()
        assert await queue.counts() == (8, 0)
        assert queue.called("ReceiveMessage") == 2


async def test_a_deletion_is_asked_for_again_and_what_makes_visible_is_not(queue: Queue) -> None:
    await queue.send(1)
    async with reading(queue) as source:
        (message,) = await receive(source, 1)
        fails = {"DeleteMessageBatch", "ChangeMessageVisibilityBatch"}

        def once(action: str, _call: dict[str, Any]) -> web.Response | None:
            return refusal("InternalError", status=500) if queue.called(action) == 1 and action in fails else None

        queue.proxy.fault = once
        assert kinds(await source.change_visibility([message.handle], 0)) == [Unreachable]
        assert queue.called("ChangeMessageVisibilityBatch") == 1
        assert kinds(await source.delete([message.handle])) == [Done]
        assert queue.called("DeleteMessageBatch") == 2


async def test_receives_that_wait_are_not_in_the_way_of_a_deletion(queue: Queue) -> None:
    await queue.send(1)
    async with reading(queue) as source:
        (message,) = await receive(source, 1)
        waiting, go_on = asyncio.Event(), asyncio.Event()

        async def hold(action: str, _call: dict[str, Any]) -> None:
            if action == "ReceiveMessage":
                if queue.called(action) > RECEIVES:  # one was before
                    waiting.set()
                await go_on.wait()

        queue.proxy.fault = hold
        receives = [asyncio.create_task(receive(source, wait_s=20)) for _ in range(60)]
        await asyncio.wait_for(waiting.wait(), 10)
        assert kinds(await source.delete([message.handle])) == [Done]
        assert queue.called("ReceiveMessage") == 1 + RECEIVES
        go_on.set()
        for receiving in receives:
            receiving.cancel()
        await asyncio.gather(*receives, return_exceptions=True)


async def test_a_silent_sqs_is_unavailable_in_time_and_holds_nobody(queue: Queue) -> None:
    await queue.send(2)
    async with reading(queue, timing=Timing(answer_s=0.3, call_s=0.3)) as source:
        (message,) = await receive(source, 1)
        go_on = asyncio.Event()

        async def hold(_action: str, _call: dict[str, Any]) -> None:
            await go_on.wait()

        queue.proxy.fault = hold
        async with asyncio.timeout(5):
            with pytest.raises(Unreachable, match="no answer within"):
                await receive(source)
            assert kinds(await source.delete([message.handle])) == [Unreachable]
        go_on.set()
        await source.settle()
        await queue.until_all_are_visible(1)  # which came too late; the other one is deleted, or held


async def test_one_receipt_for_which_a_batch_is_refused_takes_no_other_with_it(queue: Queue) -> None:
    async with reading(queue) as source:
        await queue.send(2)
        messages = [message for _ in range(2) for message in await receive(source, 1)]

        def refuse(action: str, call: dict[str, Any]) -> web.Response | None:
            bad = any(entry["ReceiptHandle"] == "" for entry in call["Entries"])
            return refusal("MissingParameter") if bad else None

        queue.proxy.fault = refuse
        results = await source.delete([messages[0].handle, "", messages[1].handle])
        assert kinds(results) == [Done, UnknownReceipt, Done]


async def test_empty_answers_that_come_at_once_are_asked_for_with_a_pause(queue: Queue) -> None:
    async with reading(queue) as source:
        queue.proxy.fault = lambda _action, _call: answer({"sign": "in"})
        assert await receive(source, wait_s=1) == []
        assert queue.called("ReceiveMessage") <= 3


@pytest.mark.parametrize("address", ["127.0.0.1:1/000000000000/orders", "127.0.0.1"])
async def test_a_user_in_an_address_is_not_shown(queue: Queue, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    source = Sqs(f"http://user:p@ss/SEKRET@{address}", "QUEUE")
    (need,) = source.needs()
    with pytest.raises(ServiceError) as refused:
        await need.look()
    assert "QUEUE" in str(refused.value)
    assert "SEKRET" not in f"{need.name} {refused.value} {source.name}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://user:SEKRET@127.0.0.1:1")
    (need,) = Sqs(queue.name, "QUEUE").needs()
    with pytest.raises(ServiceError, match=r"//127\.0\.0\.1:1") as unreachable:
        await need.look()
    assert "SEKRET" not in str(unreachable.value)
