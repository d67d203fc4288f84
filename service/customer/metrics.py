"""Metrics of the role: Prometheus families for `/metrics`, figures for CloudWatch once a minute."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric

from service.customer.events.events import Events
from service.customer.ledger.tables import LedgerStats
from service.customer.ledger.tills import TillStats
from service.dynamodb.table import Table
from service.nats.client import NatsClient
from service.requests.burst import OK
from service.requests.errors import ERRORS, InsufficientBalance
from service.requests.micro import LATENCY_BUCKETS, OUTCOMES, ConcurrentService
from service.runtime.telemetry.emf import Figure
from service.runtime.telemetry.metrics import counters, gauges, histograms, quantile, totals

UNITS: Final = {
    "Requests": "Count",
    **{error.description: "Count" for error in ERRORS if error is not InsufficientBalance},
    "InFlight": "Count",
    "TimeWithoutCredit": "Percent",
    "LatencyP50": "Milliseconds",
    "LatencyP99": "Milliseconds",
    "BatchSize": "Count",
    "EventsPending": "Count",
    "EventsDropped": "Count",
    "Serving": "Count",
    "EventsFlowing": "Count",
    "AdjustmentConflicts": "Count",
    "AdjustmentsUnknown": "Count",
}
"""Every CloudWatch metric of this role, and its unit. Each costs money: figures nobody acts on are only in the log."""

Adjusting = tuple[LedgerStats, TillStats]


def families(
    service: ConcurrentService, table: Table, events: Events, nc: NatsClient, adjusting: Adjusting | None
) -> Iterator[Metric]:
    """Yield the Prometheus metrics. `adjusting` is None if adjustments are not served."""
    requests = service.requests
    outcomes = {(name, outcome): stats.outcomes[outcome] for name, stats in requests.items() for outcome in OUTCOMES}
    yield counters("balance_requests", "Requests answered, by outcome.", ["endpoint", "outcome"], outcomes)
    yield histograms(
        "balance_request_seconds", "From receipt to answer (OK, NOT_FOUND), in seconds.", ["endpoint"],
        {(name,): stats.latency_seconds for name, stats in requests.items()},
    )  # fmt: skip
    without, turned_away = service.credit.without_s, service.credit.turned_away
    calls, sent = table.stats, events.stats
    yield from totals(
        ("balance_without_credit_seconds", "Time in which this task had no room for requests.", without),
        ("balance_requests_turned_away", "Requests told that there are no responders.", turned_away),
        (
            "balance_replies_lost",
            "Replies the connection did not take.",
            sum(stats.replies_lost for stats in requests.values()),
        ),
        ("balance_events_published", "Events the stream acknowledged.", sent.published),
        ("balance_events_retried", "Events sent again.", sent.retried),
        ("balance_events_dropped", "Events dropped because there was no room.", sent.dropped),
        ("balance_nats_reconnects", "Reconnections to NATS.", nc.stats["reconnects"]),
        ("balance_nats_loops_ended", "Times nats-py stopped reading or writing by itself.", nc.loops_ended),
        ("balance_messages_undecodable", "Messages dropped because they cannot be decoded.", nc.undecodable),
    )
    yield from gauges(
        ("balance_requests_in_flight", "Requests being worked on.", service.in_flight),
        ("balance_events_pending", "Events not yet acknowledged.", events.pending),
        ("balance_events_stalled", "1 while the stream takes none.", float(events.stalled is not None)),
    )
    yield histograms("balance_batch_keys", "Distinct keys in a BatchGetItem.", [], {(): calls.batch_keys})
    seconds = {(): calls.call_seconds}
    yield histograms("balance_dynamodb_call_seconds", "One BatchGetItem call, in seconds.", [], seconds)
    errors = calls.errors + adjusting[0].errors if adjusting else calls.errors
    failed = {(error,): count for error, count in errors.items()}
    yield counters("balance_dynamodb_errors", "Calls that failed, by error.", ["error"], failed)
    if adjusting:
        yield from _of_adjustments(*adjusting)


def _of_adjustments(written: LedgerStats, tills: TillStats) -> Iterator[Metric]:
    entries, seconds = {(): written.transaction_entries}, {(): written.transaction_seconds}
    yield histograms("balance_transaction_adjustments", "Adjustments in a transaction.", [], entries)
    yield histograms("balance_transaction_seconds", "One TransactWriteItems call, in seconds.", [], seconds)
    conflicts = "Transactions cancelled because another came first."
    yield from totals(
        ("balance_adjustment_conflicts", conflicts, tills.conflicts),
        ("balance_adjustments_unknown", "Adjustments whose outcome the requester was not told.", tills.unknown),
    )


@dataclass(frozen=True)
class _Reading:
    """Running totals at one moment."""

    at_s: float
    outcomes: Counter[str]
    processing_ns: int
    latency_counts: Sequence[int]
    batches: int
    batch_keys: float
    dropped: int
    without_s: float
    conflicts: int
    unknown: int


class Minute:
    """What happened since the previous call of `figures`."""

    def __init__(
        self, service: ConcurrentService, table: Table, events: Events, adjusting: Adjusting | None = None
    ) -> None:
        self._service = service
        self._table = table
        self._events = events
        self._tills = adjusting[1] if adjusting else TillStats()
        self._last = self._read()

    def figures(self, *, serving: bool) -> Mapping[str, Figure]:
        """Return a value for each metric of `UNITS`, and those that are only in the log line.

        Omit the latencies if no request was answered with OK or NOT_FOUND.
        """
        before, now = self._last, self._read()
        self._last = now
        elapsed_s = max(now.at_s - before.at_s, 1e-9)
        outcomes = now.outcomes - before.outcomes
        latencies = [new - old for new, old in zip(now.latency_counts, before.latency_counts, strict=True)]
        batches = now.batches - before.batches
        flowing = self._events.stalled is None
        values: dict[str, float] = {
            "Requests": outcomes.total(),
            **{error.description: outcomes[error.description] for error in ERRORS},
            # Little's law: seconds spent on requests, per second, are the requests in flight on average.
            "InFlight": (now.processing_ns - before.processing_ns) / 1e9 / elapsed_s,
            "TimeWithoutCredit": min(100.0, 100 * (now.without_s - before.without_s) / elapsed_s),
            "BatchSize": (now.batch_keys - before.batch_keys) / batches if batches else 0,
            "EventsPending": self._events.pending,
            "EventsDropped": now.dropped - before.dropped,
            "Serving": int(serving),
            "EventsFlowing": int(flowing),
            "AdjustmentConflicts": now.conflicts - before.conflicts,
            "AdjustmentsUnknown": now.unknown - before.unknown,
        }
        if any(latencies):
            values["LatencyP50"] = quantile(LATENCY_BUCKETS, latencies, 0.5) * 1000
            values["LatencyP99"] = quantile(LATENCY_BUCKETS, latencies, 0.99) * 1000
        return {OK: (outcomes[OK], None)} | {name: (value, UNITS.get(name)) for name, value in values.items()}

    def _read(self) -> _Reading:
        requests, calls = self._service.requests.values(), self._table.stats
        latencies = [stats.latency_seconds.counts for stats in requests]
        return _Reading(
            at_s=time.monotonic(),
            outcomes=sum((stats.outcomes for stats in requests), Counter()),
            processing_ns=sum(stats.processing_ns for stats in requests),
            latency_counts=[sum(counts) for counts in zip(*latencies, strict=True)],
            batches=sum(calls.batch_keys.counts),
            batch_keys=calls.batch_keys.total,
            dropped=self._events.stats.dropped,
            without_s=self._service.credit.without_s,
            conflicts=self._tills.conflicts,
            unknown=self._tills.unknown,
        )
