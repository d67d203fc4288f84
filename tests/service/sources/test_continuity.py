"""Discarded messages are told from the numbers of deliveries, whoever they went to."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from service.sources.continuity import Continuity


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
