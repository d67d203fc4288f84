"""CloudWatch takes every expression of the stack, and the alarms fire when they should and not otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pytest

from service.customer.errors import ERRORS
from service.customer.metrics import UNITS
from tests.cdk.metric_math import ARRAY, TS, S, Series, UnsupportedError, evaluate, parse, type_of
from tests.cdk.test_stack import resources, template

VARIANTS: Final[Sequence[dict[str, Any]]] = (
    {},
    {"environment": "production", "alert_email": "on-call@example.com"},
    {"queue": {"enabled": True, "image": "example/handler:1"}, "archive": {"enabled": True}, "dashboard": True},
)


def query_lists(part: Any) -> Iterator[list[dict[str, Any]]]:
    """Every list of metric queries in a template: of alarms and of scaling policies."""
    if isinstance(part, dict):
        for value in part.values():
            yield from query_lists(value)
    elif isinstance(part, list):
        if any(isinstance(one, dict) and "Id" in one and "Expression" in one for one in part):
            yield part
        for one in part:
            yield from query_lists(one)


def result_types(queries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    ids = {query["Id"]: TS for query in queries if "MetricStat" in query}
    for query in queries:
        if "Expression" in query:
            ids[query["Id"]] = type_of(parse(query["Expression"]), ids)
    return ids


@pytest.mark.parametrize("changes", VARIANTS)
def test_cloudwatch_takes_every_expression(changes: dict[str, Any]) -> None:
    made = template(**changes).to_json()
    lists = list(query_lists(made))
    assert lists
    for queries in lists:
        types = result_types(queries)
        (returned,) = [query["Id"] for query in queries if query.get("ReturnData", True)]
        assert types[returned] == TS, "an alarm and a policy watch one time series"
        assert sum("MetricStat" in query for query in queries) <= 10
        assert len({query["MetricStat"]["Period"] for query in queries if "MetricStat" in query}) == 1


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_dashboard_has_no_expression_that_is_not_typed(changes: dict[str, Any]) -> None:
    for found in resources(template(**changes), "AWS::CloudWatch::Dashboard"):
        assert not re.search(r"\\*\"expression\\*\"", json.dumps(found)), "type it here, as the alarms' are"


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("1 + 2", S),
        ("-m1 * 100", TS),
        ("100 * (m1 + m2) / m3", TS),
        ("IF(m1 > 0, 100 * m2 / m1, 0)", TS),
        ("IF(m1 > 0 && m2 < 5, m1)", TS),
        ("MAX(m1)", S),
        ("MAX([m1, m2])", TS),
        ("SUM(100 / [m1, m2])", TS),
        ("AVG(METRICS())", TS),
        ("FILL(m1, 0)", TS),
        ("FILL(METRICS(), REPEAT)", ARRAY),
        ("m1 / PERIOD(m1)", TS),
        ("SEARCH('{A,B} x', 'Sum')", ARRAY),
    ],
)
def test_the_documentations_own_examples_are_typed(expression: str, kind: str) -> None:
    assert type_of(parse(expression), dict.fromkeys(("m1", "m2", "m3"), TS)) == kind


@pytest.mark.parametrize(
    "expression",
    [
        "100 * m1 / MAX([m2, 1])",
        "[m1, 1]",
        "MAX(1)",
        "MAX(m1, 1)",
        "SUM(m1, m2)",
        "IF([m1, m2], 1, 0)",
        "METRICS() + METRICS()",
        "FIRST(m1)",
        "RATE(1)",
        "FILL(1, 0)",
        "PERIOD(METRICS())",
        "COALESCE(m1, 0)",
        "m9 + 1",
        "M1 + 1",
        "m1 +",
        "m1 m2",
        "(m1",
        "m1 % 2",
        "",
    ],
)
def test_what_cloudwatch_refuses_is_refused(expression: str) -> None:
    with pytest.raises(UnsupportedError):
        type_of(parse(expression), {"m1": TS, "m2": TS})


def test_a_gap_is_no_zero_and_a_division_by_zero_is_no_value() -> None:
    series: dict[str, Series] = {"a": [1.0, None, 4.0], "b": [2.0, 1.0, 0.0]}
    assert [evaluate(parse("a / b"), series, minute) for minute in range(3)] == [0.5, None, None]
    assert [evaluate(parse("FILL(a, 7) ^ 2"), series, minute) for minute in range(3)] == [1.0, 49.0, 16.0]
    assert [evaluate(parse("IF(b > 0, -a, 3)"), series, minute) for minute in range(3)] == [-1.0, None, 3.0]


STATISTICS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "Sum": sum, "Maximum": max, "Minimum": min, "Average": lambda values: sum(values) / len(values),
}  # fmt: skip
COMPARISONS: Final = {"GreaterThanThreshold": ">", "LessThanThreshold": "<"}

Reports = Mapping[str, Sequence[Sequence[float]]]
"""metric -> for each minute what each task reported; none: silence."""


def fires(alarm: Mapping[str, Any], reports: Reports) -> bool:
    """Whether the alarm is on at the end of the reports. What is missing counts as the alarm says."""
    periods = alarm["EvaluationPeriods"]
    queries = alarm.get("Metrics") or [{"Id": "m", "MetricStat": {"Metric": alarm, "Stat": alarm["Statistic"]}}]
    series: dict[str, Series] = {}
    for query in queries:
        if "MetricStat" in query:
            told = list(reports.get(query["MetricStat"]["Metric"]["MetricName"], [[]] * periods))[-periods:]
            fold = STATISTICS[query["MetricStat"]["Stat"]]
            series[query["Id"]] = [float(fold(values)) if values else None for values in told]
    watched = next(query.get("Expression", query["Id"]) for query in queries if query.get("ReturnData", True))
    beyond = parse(f"value {COMPARISONS[alarm['ComparisonOperator']]} threshold")
    breaches = 0
    for minute in range(periods):
        value = evaluate(parse(watched), series, minute)
        limits: dict[str, Series] = {"value": [value], "threshold": [float(alarm["Threshold"])]}
        missing = alarm["TreatMissingData"] == "breaching"
        breaches += missing if value is None else bool(evaluate(beyond, limits, 0))
    return breaches >= int(alarm["DatapointsToAlarm"])


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
    "TableThrottled": ({"ReadThrottleEvents": minutes(1)},),
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
    "TableThrottled": ({}, {"ReadThrottleEvents": once(5)}),
}


def alarms() -> dict[str, dict[str, Any]]:
    found = [one["Properties"] for one in resources(template(), "AWS::CloudWatch::Alarm")]
    return {alarm["AlarmName"].removeprefix("CustomerBalance-TT-"): alarm for alarm in found}


def test_every_alarm_is_tried() -> None:
    assert alarms().keys() == SHOULD.keys() == SHOULD_NOT.keys()


@pytest.mark.parametrize("name", SHOULD)
def test_an_alarm_fires_when_it_should(name: str) -> None:
    for reports in SHOULD[name]:
        assert fires(alarms()[name], reports), reports


@pytest.mark.parametrize("name", SHOULD_NOT)
def test_an_alarm_stays_silent_otherwise(name: str) -> None:
    for reports in SHOULD_NOT[name]:
        assert not fires(alarms()[name], reports), reports


def test_the_service_reports_every_metric_that_is_watched() -> None:
    """A misspelt name is an alarm that is silent for ever."""
    own = json.dumps([one for one in alarms().values() if "CustomerBalance" in json.dumps(one)])
    watched = set(re.findall(r'"MetricName": "(\w+)"', own)) - {"ReadThrottleEvents"}
    assert watched
    assert watched <= UNITS.keys()
