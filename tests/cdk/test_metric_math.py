"""CloudWatch takes every expression of the stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest

from tests.cdk.metric_math import ARRAY, TS, S, Series, UnsupportedError, evaluate, parse, type_of
from tests.support.deploy.stack import resources, template

pytestmark = pytest.mark.xdist_group("templates")

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
