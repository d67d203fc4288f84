"""What AWS would do with a template, by its own documents: whether an alarm fires, how many tasks a policy sets.

Nothing here imports the code under test.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from tests.cdk.metric_math import Series, evaluate, parse

OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}

Template = Mapping[str, Any]


def alarms(template: Template) -> dict[str, Mapping[str, Any]]:
    """The alarms by the last part of their name, or by their logical id where they have none."""
    return {
        found["Properties"].get("AlarmName", id_).rpartition("-")[2]: found["Properties"]
        for id_, found in template["Resources"].items()
        if found["Type"] == "AWS::CloudWatch::Alarm"
    }


def tasks_set_by(template: Template, reports: Reports) -> list[int]:
    """Return the number of tasks that each policy sets whose alarm is in ALARM at the end of the reports."""
    return [
        adjustment["ScalingAdjustment"]
        for alarm in alarms(template).values()
        for policy in _policies_of(template, alarm)
        if fires(alarm, reports)
        for adjustment in policy["StepAdjustments"]
        if (value := values_of(alarm, reports)[-1]) is not None and _applies(adjustment, value, alarm["Threshold"])
    ]


def _policies_of(template: Template, alarm: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for action in alarm.get("AlarmActions", ()):
        found = template["Resources"][action["Ref"]]
        if found["Type"] == "AWS::ApplicationAutoScaling::ScalingPolicy":
            policy = found["Properties"]["StepScalingPolicyConfiguration"]
            assert policy["AdjustmentType"] == "ExactCapacity"
            check_ranges(policy["StepAdjustments"])
            yield policy


def _applies(adjustment: Mapping[str, Any], value: float, threshold: float) -> bool:
    """Above the threshold the lower bound is inclusive and the upper one exclusive; otherwise the other way round.

    https://docs.aws.amazon.com/autoscaling/application/APIReference/API_StepAdjustment.html
    """
    lower: float = threshold + adjustment.get("MetricIntervalLowerBound", float("-inf"))
    upper: float = threshold + adjustment.get("MetricIntervalUpperBound", float("inf"))
    return lower <= value < upper if value > threshold else lower < value <= upper


def check_ranges(adjustments: Sequence[Mapping[str, Any]]) -> None:
    """The rules that the same page lists, without which a policy is refused."""
    pairs = [(step.get("MetricIntervalLowerBound"), step.get("MetricIntervalUpperBound")) for step in adjustments]
    lowers, uppers = [lower for lower, _ in pairs], [upper for _, upper in pairs]
    assert lowers.count(None) <= 1
    assert uppers.count(None) <= 1
    assert (None, None) not in pairs
    assert None in lowers or not any(lower is not None and lower < 0 for lower in lowers)
    assert None in uppers or not any(upper is not None and upper > 0 for upper in uppers)
    ordered = sorted(pairs, key=lambda pair: float("-inf") if pair[0] is None else pair[0])
    assert all(before[1] == after[0] for before, after in pairwise(ordered)), "a gap, or an overlap"


STATISTICS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "Sum": sum, "Maximum": max, "Minimum": min, "SampleCount": len,
    "Average": lambda values: sum(values) / len(values),
}  # fmt: skip

Reports = Mapping[str, Sequence[Sequence[float]]]
"""metric -> for each minute, what each task reported; empty: silence."""


def fires(alarm: Mapping[str, Any], reports: Reports) -> bool:
    """Whether the alarm is in ALARM at the end of the reports. What is missing counts as the alarm says.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html
    """
    missing, beyond = alarm.get("TreatMissingData") == "breaching", OPERATORS[alarm["ComparisonOperator"]]
    values = values_of(alarm, reports)
    breaches = [missing if value is None else beyond(value, alarm["Threshold"]) for value in values]
    return bool(sum(breaches) >= int(alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"])))


def values_of(alarm: Mapping[str, Any], reports: Reports) -> Series:
    """What the alarm looks at, in the minutes that it evaluates."""
    periods = alarm["EvaluationPeriods"]
    queries = alarm.get("Metrics") or [{"Id": "m", "MetricStat": {"Metric": alarm, "Stat": alarm["Statistic"]}}]
    series: dict[str, Series] = {}
    for query in queries:
        if "MetricStat" in query:
            reported = list(reports.get(query["MetricStat"]["Metric"]["MetricName"], [[]] * periods))[-periods:]
            fold = STATISTICS[query["MetricStat"]["Stat"]]
            series[query["Id"]] = [float(fold(values)) if values else None for values in reported]
    watched = next(query.get("Expression", query["Id"]) for query in queries if query.get("ReturnData", True))
    return [evaluate(parse(watched), series, minute) for minute in range(periods)]
