"""Each event is held in one place, whatever becomes of its batches, and its bytes are given back once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.customer.events.event import FIRST, size_bytes
from service.customer.events.outbox import Outbox


def filled(count: int) -> Outbox:
    outbox = Outbox(1000, 1_000_000)
    for number in range(count):
        assert outbox.add([f"s{number}"], ["payload"], None) == 0
    return outbox


def waiting(outbox: Outbox) -> list[int]:
    return [event[0] - FIRST for event in outbox.waiting]


def test_what_is_taken_back_waits_before_what_is_younger() -> None:
    outbox = filled(10)
    first, second, third = (outbox.take(3, 0.0) for _ in range(3))
    assert waiting(outbox) == [9]
    assert outbox.take_back(second) == 3
    assert waiting(outbox) == [3, 4, 5, 9]
    assert outbox.take_back(third) == 3
    assert outbox.take_back(first) == 3
    assert waiting(outbox) == list(range(10))
    assert outbox.take(2, 0.0).number == 3, "its number is never used again"


def test_what_a_batch_lost_waits_again() -> None:
    outbox = filled(10)
    batch = outbox.take(5, 0.0)
    assert outbox.stored(batch, 2) == 3
    assert waiting(outbox) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert (len(outbox), outbox.unacknowledged, outbox.sent) == (8, 0, {})


def test_both_bounds_hold() -> None:
    outbox = Outbox(3, 1_000_000)
    assert [outbox.add(["s"] * 2, [""] * 2, None) for _ in range(3)] == [0, 1, 2], "the last ones find no room"
    small = Outbox(1000, 200)
    assert small.add(["s"] * 4, ["x" * 10] * 4, None) == 2
    assert small.held_bytes <= 200
    assert [event[3] for event in small.waiting] == [10] * 2


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "back", "stored"]), st.integers(0, 5)), max_size=60))
def test_nothing_is_lost_doubled_or_left_behind(steps: list[tuple[str, int]]) -> None:
    outbox, done = filled(0), 0
    added = 0
    for step, size in steps:
        batches = list(outbox.sent.values())
        if step == "add":
            assert outbox.add(["s"] * size, ["x" * size] * size, None) == 0
            added += size
        elif step == "take" and outbox.waiting:
            outbox.take(min(size or 1, len(outbox.waiting)), 0.0)
        elif step == "back" and batches:
            outbox.take_back(batches[size % len(batches)])
        elif step == "stored" and batches:
            batch = batches[size % len(batches)]
            count = min(size, len(batch.events))
            outbox.stored(batch, count)
            done += count
        sent = [event for batch in outbox.sent.values() for event in batch.events]
        held = [event[0] for event in [*sent, *outbox.waiting]]
        assert len(set(held)) == len(held) == len(outbox) == added - done
        assert outbox.unacknowledged == len(sent)
        assert waiting(outbox) == sorted(waiting(outbox))
        assert outbox.held_bytes == size_bytes([*sent, *outbox.waiting])
