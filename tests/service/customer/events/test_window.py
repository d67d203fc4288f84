"""The window gives way to a slow stream, and opens again."""

from __future__ import annotations

from service.customer.events.events import Timing
from service.customer.events.window import Window


def test_it_halves_once_for_each_window_that_is_late() -> None:
    window = Window(Timing().late_s)
    assert window.size == 4096
    for sent_s in (0.0, 0.5, 1.0):
        window.acknowledged(100, sent_s, sent_s + 3)
    assert window.size == 2048, "the later ones were on their way already"
    window.acknowledged(100, 3.5, 5.0)
    assert window.size == 1024


def test_it_opens_by_a_step_for_each_window_that_is_in_time() -> None:
    window = Window(Timing().late_s)
    window.close(0.0)
    assert window.size == 1
    window.acknowledged(1, 1.0, 1.1)
    assert window.size == 17
    for _ in range(10):
        before = window.size
        for _ in range(before):
            window.acknowledged(1, 1.0, 1.1)
        assert 8 < window.size - before <= 16
    for _ in range(100_000):
        window.acknowledged(100, 1.0, 1.1)
    assert window.size == 4096


def test_it_never_closes_altogether() -> None:
    window = Window(Timing().late_s)
    for second in range(100):
        window.narrow(second, second + 0.5)
    assert window.size == 1


def test_it_settles_at_what_a_stream_does_in_the_time_that_is_late() -> None:
    """A queue of 1,000 events/s behind a window: what waits there is stored within two seconds, whatever came first."""
    window, rate, now_s = Window(Timing().late_s), 1000, 0.0
    in_flight: list[float] = []
    for _ in range(60 * rate // 10):
        in_flight += [now_s] * max(0, window.size - len(in_flight))
        now_s += 10 / rate
        for sent_s in in_flight[:10]:
            window.acknowledged(1, sent_s, now_s)
        del in_flight[:10]
        if now_s > 20:
            assert len(in_flight) < 2 * rate
