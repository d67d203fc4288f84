"""Add up the results of all generators: in total, by endpoint, and by second."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hdrh.histogram import HdrHistogram

from benchmark.load.job import TICK_S, Tick
from benchmark.load.latency import new_histogram


@dataclass(frozen=True)
class Second:
    """One second of a run."""

    at_s: int
    sent: int = 0
    replies: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass
class Answers:
    """Counts of replies and errors."""

    replies: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    histogram: HdrHistogram = field(default_factory=new_histogram)


@dataclass
class Totals(Answers):
    """Results of all generators so far."""

    started_at: float = 0.0
    """Seconds of the monotonic clock."""
    last_active: float = 0.0
    last_done: float = 0.0
    sent: int = 0
    late: int = 0
    endpoints: dict[str, Answers] = field(default_factory=dict)
    timeline: list[Second] = field(default_factory=list)
    in_flight_of: dict[int, int] = field(default_factory=dict)
    cpu_shares: dict[int, list[float]] = field(default_factory=dict)
    interrupted: bool = False
    _at_s: int = 0
    _sent: int = 0
    _recent: Answers = field(default_factory=Answers)

    @property
    def elapsed_s(self) -> float:
        """From the first request to the last reply: waiting for lost replies does not lower a rate."""
        return max(0.0, (self.last_active or self.last_done) - self.started_at)

    @property
    def completed_s(self) -> float:
        """From the first request to the end of the last one, even if by a timeout."""
        return max(0.0, self.last_done - self.started_at)

    @property
    def in_flight(self) -> int:
        return sum(self.in_flight_of.values())

    @property
    def done(self) -> int:
        return self.replies + self.errors.total()

    @property
    def busiest_cpu_share(self) -> float:
        """Mean CPU of the busiest generator, as a share of one core."""
        means = [sum(shares) / len(shares) for shares in self.cpu_shares.values() if shares]
        return max(means, default=0.0)

    def add(self, generator: int, tick: Tick) -> None:
        # A tick covers the time before it.
        self._turn_to(int(max(0.0, tick.at - TICK_S / 2 - self.started_at)))
        for name, done in tick.done.items():
            for answers in (self, self.endpoints.setdefault(name, Answers()), self._recent):
                answers.replies += done.replies
                answers.errors.update(done.errors)
                if done.histogram:
                    answers.histogram.decode_and_add(done.histogram.encode())
        self.sent += tick.sent
        self._sent += tick.sent
        self.late += tick.late
        self.last_active = max(self.last_active, tick.last_active)
        self.last_done = max(self.last_done, tick.last_done)
        self.in_flight_of[generator] = tick.in_flight
        if tick.sent:
            self.cpu_shares.setdefault(generator, []).append(tick.cpu_share)

    def finish(self) -> None:
        """Close the last second."""
        self._turn_to(self._at_s + 1)

    def _turn_to(self, at_s: int) -> None:
        if at_s <= self._at_s:
            return
        recent, latency = self._recent, self._recent.histogram
        p50, p95, p99 = (latency.get_value_at_percentile(p) / 1000 for p in (50, 95, 99))
        mean = latency.get_mean_value() / 1000 if latency.get_total_count() else 0.0
        self.timeline.append(Second(self._at_s, self._sent, recent.replies, recent.errors, mean, p50, p95, p99))
        self.timeline.extend(Second(empty) for empty in range(self._at_s + 1, at_s))
        self._at_s, self._sent, self._recent = at_s, 0, Answers()
