"""Discarded messages are told from the numbers of deliveries, whoever they went to."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from service.sources.jetstream.continuity import Continuity


def test_a_gap_in_the_sequences_is_what_was_discarded() -> None:
    seen = Continuity()
    seen.polled(0, 0, 1)
    seen.delivered(1, 1, again=False)
    seen.delivered(2, 12, again=False)
    assert seen.discarded == 10


def test_messages_that_went_to_another_task_were_not_discarded() -> None:
    seen = Continuity()
    seen.polled(0, 0, 1)
    seen.delivered(1, 1, again=False)
    seen.delivered(501, 501, again=False)
    assert seen.discarded == 0


def test_a_repeated_delivery_hides_nothing() -> None:
    seen = Continuity()
    seen.polled(0, 0, 1)
    seen.delivered(1, 1, again=False)
    seen.delivered(2, 1, again=True)
    seen.delivered(3, 3, again=False)
    assert seen.discarded == 1


def test_what_was_discarded_before_any_task_came_is_counted_once() -> None:
    seen = Continuity()
    seen.polled(0, 0, 101)
    assert seen.discarded == 100
    seen.polled(0, 0, 111)
    assert seen.discarded == 110
    seen.delivered(1, 111, again=False)
    assert seen.discarded == 110


def test_a_poll_that_is_read_late_counts_nothing() -> None:
    """The others were given 101 to 120 for the first time, then this task 20 old ones again."""
    seen = Continuity()
    seen.polled(100, 100, 1)
    for number in range(121, 141):
        seen.delivered(number, number - 90, again=True)
    seen.polled(120, 120, 1)
    assert seen.discarded == 0
    seen.polled(140, 120, 1)
    seen.delivered(141, 131, again=False)
    assert seen.discarded == 10, "those of 121 to 130"


def test_repeated_deliveries_before_the_first_poll_count_for_nothing() -> None:
    seen = Continuity()
    for number in range(1001, 1051):
        seen.delivered(number, number - 900, again=True)
    seen.polled(1020, 1000, 1)
    seen.polled(1050, 1000, 1)
    seen.polled(1100, 1050, 1)  # another task was given 1001 to 1050
    assert seen.discarded == 0
    seen.restart()
    seen.polled(5, 5, 1)
    seen.delivered(6, 8, again=False)
    assert seen.discarded == 2, "of the consumer that was made again"


@given(seed=st.integers(0, 10_000))
def test_one_task_counts_exactly(seed: int) -> None:
    """Deliveries, repeats, discards and polls in any order."""
    dice = random.Random(seed)
    seen, number, sequence, first, lost = Continuity(), 0, 0, 1, 0
    seen.polled(0, 0, 1)
    for _ in range(60):
        step = dice.randrange(4)
        if step == 0:
            gap = max(0, first - 1 - sequence)
            number, sequence, lost = number + 1, sequence + gap + 1, lost + gap
            seen.delivered(number, sequence, again=False)
        elif step == 1 and sequence:
            number += 1
            seen.delivered(number, dice.randint(1, sequence), again=True)
        elif step == 2:
            first = max(first, dice.randint(1, sequence + 5))
        else:
            seen.polled(number, sequence, first)
    gap = max(0, first - 1 - sequence)
    seen.polled(number, sequence, first)
    assert seen.discarded == lost + gap
