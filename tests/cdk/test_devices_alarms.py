"""The alarms of the role `devices`, on reports as its tasks would make them, by CloudWatch's rules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from service.devices.figures import UNITS
from tests.cdk.aws_rules import Reports, alarms, fires
from tests.cdk.test_devices import FULL, ON
from tests.support.deploy.stack import template

pytestmark = pytest.mark.xdist_group("templates")

MINUTES: Final = 30


def steady(**changes: Sequence[Sequence[float]]) -> Reports:
    """Half an hour of two tasks, with 400 readings a second and nothing wrong, but for the changes."""
    usual = {
        "CPUUtilization": [[20.0, 21.0]], "DevicesReadings": [[12_000.0, 12_100.0]],
        "DevicesReadingsWaiting": [[40.0, 40.0]], "DevicesReadingAge": [[0.3, 0.2]], "DevicesDeadLetters": [[0.0, 0.0]],
        "DevicesDeadLettersRefused": [[0.0, 0.0]], "DevicesReportFailures": [[0.0, 0.0]],
        "DevicesOutageAge": [[0.0, 0.0]], "DevicesOnline": [[900.0, 900.0]], "DevicesSilence": [[0.1, 0.1]],
    }  # fmt: skip
    return {**{name: minute * MINUTES for name, minute in usual.items()}, **changes}


def last(minutes: int, *values: float, before: Sequence[float] = (0.0, 0.0)) -> list[list[float]]:
    return [list(before)] * (MINUTES - minutes) + [list(values)] * minutes


def rising(minutes: int, factor: float = 60.0) -> list[list[float]]:
    """Nothing came for so many minutes: both tasks count."""
    return [[0.2, 0.3]] * (MINUTES - minutes) + [[factor * minute, factor * minute] for minute in range(1, minutes + 1)]


NOTHING: Final[Reports] = {name: [[]] * MINUTES for name in steady()}
STARTED: Final = steady(**{name: [*[[]] * 28, *minutes[:2]] for name, minutes in steady().items()})
"""Two minutes ago, for the first time."""

SHOULD: Final[Mapping[str, Sequence[Reports]]] = {
    "DevicesNoTask": (NOTHING, steady(CPUUtilization=last(5))),
    "DevicesReadingsWait": (
        NOTHING,
        steady(DevicesReadingAge=last(5, 301, 300)),
        steady(DevicesReadingAge=rising(10)),
        steady(DevicesReadingAge=last(5)),  # the tasks cannot tell
    ),
    "DevicesDeadLetters": (steady(DevicesDeadLetters=last(1, 0, 1)),),
    "DevicesLettersRefused": (steady(DevicesDeadLettersRefused=last(5, 1, 0)),),
    "DevicesOutagesUnreported": (
        steady(DevicesOutageAge=last(5, 0, 600)),  # one task reports, the other knows of none
        steady(DevicesOutageAge=rising(15)),
    ),
    "DevicesSilent": (
        steady(DevicesSilence=rising(18)),
        steady(DevicesSilence=rising(18), CPUUtilization=last(3, 5)),
    ),
}
SHOULD_NOT: Final[Mapping[str, Sequence[Reports]]] = {
    "DevicesNoTask": (steady(), steady(CPUUtilization=last(4)), STARTED),
    "DevicesReadingsWait": (
        steady(),
        steady(DevicesReadingAge=last(4, 900, 900)),  # a backlog that is gone in four minutes
        steady(DevicesReadingAge=last(10, 299, 299)),
        steady(DevicesReadingsWaiting=last(10, 50_000, 50_000)),  # many, and none of them old
    ),
    "DevicesDeadLetters": (steady(), NOTHING, steady(DevicesDeadLetters=last(30, 0, 0))),
    "DevicesLettersRefused": (steady(), NOTHING, steady(DevicesDeadLettersRefused=last(4, 3, 3))),
    "DevicesOutagesUnreported": (
        steady(),
        NOTHING,
        steady(DevicesOutageAge=rising(9), DevicesReportFailures=last(9, 3, 0)),  # until the webhook is back
        steady(DevicesOutageAge=last(30, 7, 0)),  # the window
    ),
    "DevicesSilent": (
        steady(),
        NOTHING,  # DevicesNoTask says it
        STARTED,
        steady(DevicesSilence=rising(14)),
        steady(DevicesSilence=last(30, 4000, 0.5)),  # a trickle that one task gets
        steady(DevicesSilence=rising(16), DevicesReadings=last(16, 0, 0)),  # not yet for three minutes
    ),
}


def found(**changes: Any) -> dict[str, Mapping[str, Any]]:
    return {name: alarm for name, alarm in alarms(template(**changes).to_json()).items() if name.startswith("Devices")}


def test_every_alarm_is_tried() -> None:
    assert found(**FULL).keys() == SHOULD.keys() == SHOULD_NOT.keys()


@pytest.mark.parametrize("name", SHOULD)
def test_an_alarm_fires_when_it_should(name: str) -> None:
    for reports in SHOULD[name]:
        assert fires(found(**FULL)[name], reports), reports


@pytest.mark.parametrize("name", SHOULD_NOT)
def test_an_alarm_stays_silent_otherwise(name: str) -> None:
    for reports in SHOULD_NOT[name]:
        assert not fires(found(**FULL)[name], reports), reports


@pytest.mark.parametrize("minute", range(1, MINUTES + 1))
def test_in_a_steady_half_hour_none_fires_at_any_minute(minute: int) -> None:
    seen = {name: values[:minute] for name, values in steady().items()}
    firing = {
        name for name, alarm in found(**FULL).items() if minute >= alarm["EvaluationPeriods"] and fires(alarm, seen)
    }
    assert firing == set()


def test_a_facility_without_power_raises_one_alarm() -> None:
    """Its devices are gone and reported; nothing waits."""
    power = steady(DevicesSilence=rising(20), DevicesReadings=last(20, 0, 0), DevicesOnline=last(20, 0, 0))
    assert {name for name, alarm in found(**FULL).items() if fires(alarm, power)} == {"DevicesSilent"}


def test_the_threshold_of_silence_is_the_settings() -> None:
    hours = {"devices": {**ON["devices"], "silent_minutes": 120, "pulse": 3600}}
    assert found(**hours)["DevicesSilent"]["Threshold"] == 7200
    assert "DevicesSilent" not in found(devices={**ON["devices"], "silent_minutes": 0})


def test_without_a_webhook_nothing_is_expected_to_be_reported() -> None:
    assert found(**FULL).keys() - found(**ON).keys() == {"DevicesOutagesUnreported"}


def test_each_says_what_to_do_and_a_person_is_reported() -> None:
    made = template(alert_email="on-call@example.com", **FULL)
    (topic,) = made.find_resources("AWS::SNS::Topic")
    for name, alarm in found(alert_email="on-call@example.com", **FULL).items():
        assert alarm["AlarmName"] == f"CustomerBalance-TT-{name}"
        assert len(alarm["AlarmDescription"]) > 80
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": topic}]


def test_the_role_reports_every_metric_that_is_watched() -> None:
    """A misspelt name is an alarm that is silent for ever."""
    own = json.dumps(list(found(**FULL).values()))
    watched = set(re.findall(r'"MetricName": "(\w+)"', own)) - {"CPUUtilization"}
    assert watched
    assert watched <= UNITS.keys()
    role = pytest.importorskip("service.devices.metrics", reason="the role itself")
    assert role.UNITS == UNITS
