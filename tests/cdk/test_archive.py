"""The archive in the template: off unless asked for, from zero by backlog, with what it needs and no more."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cdk.sections import ArchiveSection
from tests.cdk.test_stack import resources, template

ON = {"archive": {"enabled": True, "retention_days": 30}}


def archive_definition() -> dict[str, Any]:
    (found,) = [
        definition["Properties"]
        for definition in resources(template(**ON), "AWS::ECS::TaskDefinition")
        if definition["Properties"]["ContainerDefinitions"][0]["Command"] == ["archive"]
    ]
    return dict(found)


def test_it_is_off_unless_asked_for() -> None:
    assert len(resources(template(), "AWS::DynamoDB::Table")) == 1
    assert len(resources(template(), "AWS::ECS::Service")) == 1


def test_the_table_has_the_events_keys_and_expires_rows() -> None:
    (table,) = [
        found["Properties"]
        for found in resources(template(**ON), "AWS::DynamoDB::Table")
        if found["Properties"]["TableName"] == "customer-events-TT"
    ]
    assert table["KeySchema"] == [
        {"AttributeName": "client_id", "KeyType": "HASH"},
        {"AttributeName": "event", "KeyType": "RANGE"},
    ]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}


def test_the_task_may_write_rows_and_describe_the_table_and_nothing_else() -> None:
    actions = [
        statement["Action"]
        for policy in resources(template(**ON), "AWS::IAM::Policy")
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "dynamodb:BatchWriteItem" in statement["Action"]
    ]
    assert actions == [["dynamodb:BatchWriteItem", "dynamodb:DescribeTable"]]


def test_the_task_has_its_own_credentials() -> None:
    (container,) = archive_definition()["ContainerDefinitions"]
    assert container["Secrets"] == [{"Name": "NATS_CREDENTIALS", "ValueFrom": {"Ref": "ArchiveNatsSecretArn"}}]
    environment = {entry["Name"]: entry["Value"] for entry in container["Environment"]}
    assert environment["ARCHIVE_SOURCE"] == "jetstream:customer-balances"
    assert environment["RETENTION_DAYS"] == "30"


def test_it_scales_by_backlog_from_zero_and_back_to_zero() -> None:
    policies = [
        policy["Properties"]["StepScalingPolicyConfiguration"]
        for policy in resources(template(**ON), "AWS::ApplicationAutoScaling::ScalingPolicy")
        if policy["Properties"]["PolicyType"] == "StepScaling"
    ]
    adjustments = sorted(step["ScalingAdjustment"] for policy in policies for step in policy["StepAdjustments"])
    assert adjustments == [0, 1, 2, 4]
    assert {policy["AdjustmentType"] for policy in policies} == {"ExactCapacity"}
    targets = [
        (target["Properties"]["MinCapacity"], target["Properties"]["MaxCapacity"])
        for target in resources(template(**ON), "AWS::ApplicationAutoScaling::ScalableTarget")
    ]
    assert (0, 4) in targets


def test_backlog_loss_and_dead_letters_raise_alarms() -> None:
    named = {
        alarm["Properties"].get("AlarmName"): alarm["Properties"]
        for alarm in resources(template(**ON), "AWS::CloudWatch::Alarm")
    }
    for name in ("ArchiveStuck", "ArchiveDiscarded", "ArchiveUnconfirmed", "ArchiveDeadLetters"):
        assert named[f"CustomerBalance-TT-{name}"]["Statistic"] == "Maximum"


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"backlog": 10, "tasks": 1}, {"backlog": 5, "tasks": 2}],
        [{"backlog": 10, "tasks": 2}, {"backlog": 20, "tasks": 2}],
        [{"backlog": 0, "tasks": 1}],
    ],
)
def test_steps_rise(steps: list[dict[str, int]]) -> None:
    with pytest.raises(ValidationError):
        ArchiveSection.model_validate({"steps": steps})


@pytest.mark.parametrize(("backlog", "tasks"), [(0, 0), (1, 1), (99_999, 1), (100_000, 2), (10**9, 4)])
def test_a_backlog_asks_for_tasks(backlog: int, tasks: int) -> None:
    assert ArchiveSection().tasks(backlog) == tasks
