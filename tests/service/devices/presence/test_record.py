"""The state of a device, pure: each line of the table, and what holds for any signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.devices.presence.record import (
    DOWN,
    LEAVING,
    OFFLINE,
    ONLINE,
    UP,
    Connect,
    Event,
    Reading,
    Record,
    Sign,
    Will,
    decode,
    encode,
    expire,
    is_over,
    take,
    timer_s,
)

ONLINE_NOW = Record("d", ONLINE, 100.0, 0, 0, 10, revision=5, written=100.1)
WATCHED = replace(ONLINE_NOW, silence=60)
GOING = replace(ONLINE_NOW, state=LEAVING, since=200.0, seq=20, due=205.0, written=200.1)
GONE = replace(GOING, state=OFFLINE, events=())


def after(record: Record | None, *signs: Sign) -> Record:
    found = take(record, "d", signs)
    assert found
    return found


def kinds(record: Record) -> list[str]:
    return [event.kind for event in record.events]


@pytest.mark.parametrize(
    ("record", "sign", "state", "events"),
    [
        (None, Connect(1, 50.0), ONLINE, []),
        (None, Will(1, 50.0), LEAVING, []),
        (None, Reading(1, 50.0), ONLINE, []),
        (ONLINE_NOW, Connect(11, 150.0), ONLINE, []),
        (ONLINE_NOW, Will(11, 150.0), LEAVING, []),
        (ONLINE_NOW, Reading(11, 1e9), ONLINE, []),
        (WATCHED, Will(11, 150.0), LEAVING, []),
        (WATCHED, Reading(11, 150.0), ONLINE, []),
        (WATCHED, Reading(11, 181.0), ONLINE, [DOWN, UP]),
        (WATCHED, Connect(11, 181.0), ONLINE, [DOWN, UP]),
        (WATCHED, Will(11, 181.0), OFFLINE, [DOWN]),
        (GOING, Connect(21, 204.9), ONLINE, []),
        (GOING, Connect(21, 205.1), ONLINE, [DOWN, UP]),
        (GOING, Reading(21, 205.05), ONLINE, []),
        (GOING, Reading(21, 205.2), ONLINE, [DOWN, UP]),
        (GOING, Will(21, 204.0), LEAVING, []),
        (GONE, Connect(21, 900.0), ONLINE, [UP]),
        (GONE, Reading(21, 900.0), ONLINE, [UP]),
        (GONE, Will(21, 900.0), OFFLINE, []),
    ],
)
def test_each_line_of_the_table(record: Record | None, sign: Sign, state: str, events: Sequence[str]) -> None:
    found = after(record, sign)
    assert (found.state, kinds(found)) == (state, events)


@pytest.mark.parametrize("record", [ONLINE_NOW, WATCHED, GOING, GONE])
@pytest.mark.parametrize("sign", [Connect(10, 900.0, 9), Will(10, 900.0, 9), Reading(10, 900.0)])
def test_a_sign_that_was_taken_in_changes_nothing(record: Record, sign: Sign) -> None:
    assert take(record, "d", [sign]) is record


def test_the_will_of_a_lower_session_is_old() -> None:
    record = replace(ONLINE_NOW, session=7)
    assert take(record, "d", [Will(11, 150.0, session=6)]) is record
    assert after(record, Will(11, 150.0, session=7)).state == LEAVING


@pytest.mark.parametrize("record", [replace(each, session=7, willed=7) for each in (GOING, GONE)])
def test_a_connect_of_the_session_whose_will_has_come_is_late(record: Record) -> None:
    assert take(record, "d", [Connect(21, 203.0, session=7)]) is record
    assert after(record, Connect(21, 203.0, session=8)).state == ONLINE


def test_a_device_that_lost_its_count_of_sessions_is_heard() -> None:
    record = after(replace(ONLINE_NOW, session=7), Connect(11, 150.0, session=1))
    assert (record.state, record.session) == (ONLINE, 1)
    assert after(record, Will(12, 160.0, session=1)).state == LEAVING


@pytest.mark.parametrize(
    "before",
    [[Connect(1, 1.0, 5)], [Connect(1, 1.0, 4_000_000_000), Connect(2, 2.0, 5)], [Reading(1, 1.0)], [Will(1, 1.0, 9)]],
    ids=["a session too high", "a clock that was ahead", "no connect yet", "a will first"],
)
def test_a_will_of_a_higher_session_hides_no_later_will(before: Sequence[Sign]) -> None:
    record = after(None, *before, Will(3, 2.5, 4_000_000_000), Reading(4, 3.0))
    assert record.state == ONLINE
    assert after(record, Will(5, 9.0, 5)).state == LEAVING


def test_a_connect_is_late_also_where_its_will_is_the_first_sign_of_its_session() -> None:
    assert after(None, Connect(1, 1.0, 5), Will(2, 2.0, 7), Connect(3, 2.1, 7)).state == LEAVING
    assert after(None, Will(2, 2.0, 7), Connect(3, 2.1, 7)).state == LEAVING
    assert after(replace(GONE, session=5), Will(21, 300.0, 7), Connect(22, 301.0, 7)).state == OFFLINE


@pytest.mark.parametrize("first", [Reading(1, 10.0), Will(1, 10.0)])
def test_a_device_that_has_not_connected_yet_has_the_silence_of_the_setting(first: Sign) -> None:
    record = take(None, "d", [first, Reading(2, 10.5)], silence=60)
    assert record
    assert (record.state, record.silence) == (ONLINE, 60)


def test_a_device_that_fell_silent_is_up_at_any_later_sign() -> None:
    silent = expire(WATCHED, seq=30)
    assert (silent.state, silent.since, silent.events) == (OFFLINE, 100.1, (Event(DOWN, 10, 100.1, "silence"),))
    silent = replace(silent, events=())
    assert take(silent, "d", [Reading(30, 1e6)]) is silent
    assert kinds(after(silent, Reading(31, 1e6))) == [UP]
    assert kinds(after(silent, Connect(31, 1e6, session=silent.session))) == [UP]


def test_an_outage_has_the_sequence_of_its_will() -> None:
    assert expire(GOING, seq=40).events == (Event(DOWN, 20, 200.0, "will"),)


def test_a_timer_is_renewed_thrice_a_period_and_outlasts_it() -> None:
    assert take(WATCHED, "d", [Reading(11, 119.0)]) is WATCHED
    assert after(WATCHED, Reading(11, 121.0)).seq == 11
    assert timer_s(WATCHED) == 80
    assert timer_s(replace(WATCHED, silence=1)) == 2
    assert not is_over(WATCHED, 180.0)
    assert is_over(WATCHED, 180.2)


@pytest.mark.parametrize("delay", [-1, 0, 1])
def test_a_timer_has_at_least_a_second(delay: int) -> None:
    assert timer_s(after(ONLINE_NOW, Will(11, 150.0, delay=delay))) == 1


sessions = st.integers(0, 3)
times = st.floats(0, 1e6, allow_nan=False)
signs = st.one_of(
    st.builds(Connect, st.integers(1, 60), times, sessions, st.integers(0, 9)),
    st.builds(Will, st.integers(1, 60), times, sessions, st.integers(0, 9)),
    st.builds(Reading, st.integers(1, 60), times),
)
histories = st.lists(signs, min_size=1, max_size=12, unique_by=lambda sign: sign.seq).map(
    lambda found: sorted(found, key=lambda sign: sign.seq)
)


@given(histories, st.data())
def test_it_does_not_matter_how_signs_are_cut_into_rounds(history: list[Sign], data: st.DataObject) -> None:
    """As long as no round is written between them: a timer runs from there."""
    cut = data.draw(st.integers(0, len(history)))
    whole = take(None, "d", history)
    assert take(take(None, "d", history[:cut]), "d", history[cut:]) == whole


@given(histories, st.data())
def test_what_comes_again_changes_nothing(history: list[Sign], data: st.DataObject) -> None:
    record = after(None, *history)
    again = [sign for sign in data.draw(st.lists(st.sampled_from(history))) if sign.seq <= record.seq]
    assert take(record, "d", again) is record


@given(histories)
def test_outages_and_returns_take_turns(history: list[Sign]) -> None:
    """Each down is followed by an up before the next one, and each has its own sequence."""
    record: Record | None = None
    events: list[Event] = []
    for revision, sign in enumerate(history, 1):
        base = replace(record, events=(), revision=revision, written=sign.at) if record else None
        record = take(base, "d", [sign])
        assert record
        events += record.events
        if timer_s(record) and revision % 3 == 0:
            record = expire(replace(record, events=(), written=record.written or sign.at))
            events += record.events
    assert [event.kind for event in events] == [DOWN, UP] * (len(events) // 2) + [DOWN] * (len(events) % 2)
    assert len({(event.kind, event.seq) for event in events}) == len(events)


@given(histories)
def test_a_record_is_read_as_it_was_written(history: list[Sign]) -> None:
    record = after(None, *history)
    assert decode("d", encode(record), 9, 3.5) == replace(record, revision=9, written=3.5)


@pytest.mark.parametrize("value", [b"", b"[]", b"7", b'{"state":"online"}', b"null", b"\xff"])
def test_invalid_records_are_recognized(value: bytes) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        decode("d", value, 1, 1.0)
