"""The alarms fire when they should and not otherwise, by CloudWatch's rules, on reports made here and recorded ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from service.archive.metrics import UNITS as ARCHIVE_UNITS
from service.customer.backlog import UNITS as BACKLOG_UNITS
from service.customer.metrics import UNITS
from service.requests.errors import ERRORS
from tests.cdk.aws_rules import Reports, alarms, fires
from tests.cdk.record_series import FOLDER as SERIES
from tests.support.deploy.stack import template

pytestmark = pytest.mark.xdist_group("templates")


def minutes(*values: float) -> list[list[float]]:
    """The same report of the tasks, for ten minutes."""
    return [list(values)] * 10


def once(value: float) -> list[list[float]]:
    """Three tasks, all well but one of them in the last minute but one."""
    return [[0.0, 0.0, 0.0]] * 8 + [[value, 0.0, 0.0], [0.0, 0.0, 0.0]]


SERVER_ERRORS: Final = [error.description for error in ERRORS if error.code >= "500"]


def answered(requests: float, **errors: float) -> Reports:
    return {"Requests": minutes(requests), **{name: minutes(errors.get(name, 0)) for name in SERVER_ERRORS}}


SHOULD: Final[Mapping[str, Sequence[Reports]]] = {
    "NoTaskServing": ({}, {"Serving": minutes(0, 0, 0)}),
    "FewTasksServing": ({}, {"Serving": minutes(1, 1)}, {"Serving": minutes(1, 1, 0)}),
    "ErrorRate": (answered(1000, UNAVAILABLE=11), answered(1000, UNAVAILABLE=5, INTERNAL_ERROR=6)),
    "Latency": ({"LatencyP99": minutes(3, 101, 4)},),
    "TimeWithoutCredit": ({"TimeWithoutCredit": minutes(40, 30, 0)},),
    "EventsNotFlowing": ({"EventsFlowing": minutes(1, 0, 1)},),
    "EventsDropped": ({"EventsDropped": minutes(0, 1, 0)},),
    "AdjustmentConflicts": ({"AdjustmentConflicts": minutes(301, 300, 0)},),
    "AdjustmentsUnknown": ({"AdjustmentsUnknown": minutes(0, 1, 0)},),
    "TableThrottled": ({"ReadThrottleEvents": minutes(1)},),
    "ArchiveStuck": ({}, {"ArchiveOldest": minutes(1801, 1800)}),
    "ArchiveDeadLetters": ({"ArchiveDeadLetters": minutes(0, 1)},),
    "ArchiveDiscarded": ({"ArchiveDiscarded": minutes(5)},),
    "ArchiveUnconfirmed": ({"ArchiveUnconfirmed": minutes(5, 5)},),
    "ArchiveLettersRefused": ({"ArchiveDeadLettersRefused": minutes(1)},),
    "QueueNoTask": ({}, {"CPUUtilization": [*minutes(3), *[[]] * 5]}),
    "QueueOld": ({}, {"QueueOldest": minutes(3600)}),
    "QueueDeadLetters": ({"QueueDeadLetters": minutes(1, 1)},),
}  # fmt: skip
SHOULD_NOT: Final[Mapping[str, Sequence[Reports]]] = {
    "NoTaskServing": (
        {"Serving": minutes(1), "EventsFlowing": minutes(0)},  # the stream is gone, every request is answered
        {"Serving": [*minutes(1, 1, 1), [], []]},  # two minutes without a report
    ),
    "FewTasksServing": (
        {"Serving": minutes(1, 1, 1)},
        {"Serving": minutes(1, 1, 1, 1, 1, 1)},  # while tasks are replaced
        {"Serving": [*minutes(1, 1), [1, 1, 1]]},
    ),
    "ErrorRate": ({}, answered(0), answered(1000, UNAVAILABLE=10), {**answered(1000), "BAD_REQUEST": minutes(900)}),
    "Latency": ({}, {"LatencyP99": minutes(99)}, {"LatencyP99": once(500)}),
    "TimeWithoutCredit": ({}, {"TimeWithoutCredit": minutes(19)}, {"TimeWithoutCredit": once(100)}),
    "EventsNotFlowing": ({}, {"EventsFlowing": minutes(1, 1, 1)}, {"EventsFlowing": [*minutes(1), [0], [1]]}),
    "EventsDropped": ({}, {"EventsDropped": minutes(0, 0, 0)}),
    "AdjustmentConflicts": ({}, {"AdjustmentConflicts": minutes(300, 300)}, {"AdjustmentConflicts": once(5000)}),
    "AdjustmentsUnknown": ({}, {"AdjustmentsUnknown": minutes(0, 0)}, {"AdjustmentsUnknown": once(9)}),
    "TableThrottled": ({}, {"ReadThrottleEvents": once(5)}),
    "ArchiveStuck": (
        {"ArchiveOldest": minutes(9), "ArchiveBacklog": minutes(9)},
        {"ArchiveOldest": minutes(1799)},
        {"ArchiveOldest": once(2000)},
    ),
    "ArchiveDeadLetters": ({}, {"ArchiveDeadLetters": minutes(0)}),
    "ArchiveDiscarded": ({}, {"ArchiveDiscarded": minutes(0)}),
    "ArchiveUnconfirmed": ({}, {"ArchiveUnconfirmed": minutes(0, 0)}),
    "QueueNoTask": ({"CPUUtilization": minutes(0)}, {"CPUUtilization": [*minutes(3), [], [], [], []]}),
    "QueueOld": ({"QueueOldest": minutes(9), "QueueBacklog": minutes(9)}, {"QueueOldest": once(4000)}),
    "ArchiveLettersRefused": ({}, {"ArchiveDeadLettersRefused": once(3)}),
    "QueueDeadLetters": ({}, {"QueueDeadLetters": minutes(0)}),
}


ROLES: Final[dict[str, dict[str, Any]]] = {"archive": {"enabled": True}, "queue": {"enabled": True, "image": "handler"}}
SOURCES: Final = ("jetstream", "sqs")


def everything(source: str = "jetstream") -> dict[str, Mapping[str, Any]]:
    """Return the alarms for people of a deployment with each role, as small as the recorded one."""
    roles = {name: {**section, "source": source} for name, section in ROLES.items()}
    found = alarms(template(tasks=1, min_tasks=1, **roles).to_json())
    return {name: alarm for name, alarm in found.items() if "AlarmName" in alarm}


def test_every_alarm_is_tried() -> None:
    assert everything().keys() == SHOULD.keys() == SHOULD_NOT.keys()


@pytest.mark.parametrize("name", SHOULD)
def test_an_alarm_fires_when_it_should(name: str) -> None:
    for reports in SHOULD[name]:
        assert fires(alarm_of(name), reports), reports


@pytest.mark.parametrize("name", SHOULD_NOT)
def test_an_alarm_stays_silent_otherwise(name: str) -> None:
    for reports in SHOULD_NOT[name]:
        assert not fires(alarm_of(name), reports), reports


def alarm_of(name: str) -> Mapping[str, Any]:
    """Of three tasks, as a proof of concept has."""
    return alarms(template(**ROLES).to_json())[name]


RECORDED: Final = {path.stem: json.loads(path.read_text()) for path in SERIES.glob("*.json")}
"""`python -m tests.cdk.record_series` recorded them of a real system."""


def ever_fires(alarm: Mapping[str, Any], reports: Reports) -> bool:
    """At any minute of the reports, which are repeated until each alarm has its minutes."""
    minutes = len(next(iter(reports.values())))
    times = 1 + alarm["EvaluationPeriods"] // minutes
    reports = {name: [*values] * times for name, values in reports.items()}
    minutes *= times
    return any(
        fires(alarm, {name: values[:end] for name, values in reports.items()})
        for end in range(alarm["EvaluationPeriods"], minutes + 1)
    )


def with_those_of_aws(name: str, recorded: Reports) -> Reports:
    """What AWS reports itself. SQS' figures are those of a stream with the same messages."""
    role = "Archive" if name.startswith("Archive") else "Queue"
    length = len(recorded["Serving"])
    waiting = "QueueDeadLetters" if name == "QueueDeadLetters" else f"{role}Backlog"
    return {
        **recorded,
        "ReadThrottleEvents": [[0.0]] * length,
        "CPUUtilization": [[5.0]] * length,
        "ApproximateAgeOfOldestMessage": recorded[f"{role}Oldest"],
        "ApproximateNumberOfMessagesVisible": recorded[waiting],
        "ApproximateNumberOfMessagesNotVisible": [[0.0]] * length,
        "NumberOfMessagesDeleted": recorded["ArchiveRows"] if recorded.get("ArchiveRows") else [[]] * length,
    }


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("name", "is_healthy"),
    [("healthy-1", True), ("healthy-20", True), ("healthy-1000", True), ("stuck-20", False)],
)
def test_alarms_on_recorded_series(name: str, source: str, *, is_healthy: bool) -> None:
    """At 1, 20 and 1,000 requests/s nothing fires; with nobody to archive and to handle, what is stuck does."""
    stuck = {"ArchiveStuck", "QueueOld"} | (
        {"ArchiveNothingDeleted", "QueueNothingDeleted"} if source == "sqs" else set()
    )
    found = {
        alarm_name
        for alarm_name, alarm in everything(source).items()
        if ever_fires(alarm, with_those_of_aws(alarm_name, RECORDED[name]))
    }
    assert found == (set() if is_healthy else stuck)


def test_a_sampled_backlog_tells_neither_what_is_stuck_nor_what_is_idle() -> None:
    """Why no alarm for people watches it, and why tasks do not end by it alone."""
    busy, trickle = (
        [max(values) for values in RECORDED[name]["ArchiveBacklog"]] for name in ("healthy-1000", "healthy-1")
    )
    assert sum(value > 0 for value in busy) > len(busy) / 2
    assert set(trickle) == {0}
    assert all(sum(rows) > 0 for rows in RECORDED["healthy-1"]["ArchiveRows"])


def test_a_handler_that_fails_on_each_message_of_a_queue_is_seen() -> None:
    """After a message was received three times, SQS leaves it out of the oldest message's age."""
    day = 24 * 60
    reports = {
        "ApproximateAgeOfOldestMessage": [[min(minute * 60.0, 90.0)] for minute in range(day)],
        "ApproximateNumberOfMessagesVisible": [[3.0]] * day,
        "ApproximateNumberOfMessagesNotVisible": [[2.0]] * day,
        "NumberOfMessagesDeleted": [[0.0]] * day,
        "CPUUtilization": [[5.0]] * day,
    }
    alarms_of_sqs = everything("sqs")
    assert not fires(alarms_of_sqs["QueueOld"], reports)
    assert fires(alarms_of_sqs["QueueNothingDeleted"], reports)
    assert fires(alarms_of_sqs["ArchiveNothingDeleted"], reports)
    some = {**reports, "NumberOfMessagesDeleted": [[float(minute % 20 == 0)] for minute in range(day)]}
    assert not fires(alarms_of_sqs["QueueNothingDeleted"], some)


def test_the_service_reports_every_metric_that_is_watched() -> None:
    """A misspelt name is an alarm that is silent for ever."""
    own = json.dumps([one for one in everything().values() if "CustomerBalance" in json.dumps(one)])
    watched = set(re.findall(r'"MetricName": "(\w+)"', own)) - {"ReadThrottleEvents", "CPUUtilization"}
    assert watched
    assert watched <= UNITS.keys() | ARCHIVE_UNITS.keys() | BACKLOG_UNITS.keys()
