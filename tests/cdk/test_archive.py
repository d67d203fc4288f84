"""The archive in the template: off unless asked for, from zero by backlog, with what it needs and no more."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import boto3
import pytest
from pydantic import ValidationError

from deploy.sections import ArchiveSection
from service.customer import backlog
from tests.cdk.aws_rules import Reports, alarms, tasks_set_by
from tests.support.deploy.stack import lint, resources, settings, template

pytestmark = pytest.mark.xdist_group("templates")

ON = {"archive": {"enabled": True, "retention_days": 30}}
ON_SQS = {"archive": {"enabled": True, "source": "sqs"}}
NAMED = {"archive": {**ON_SQS["archive"], "queue": "numbers"}}
ELSEWHERE = {"archive": {**ON_SQS["archive"], "queue": "arn:aws:sqs:eu-west-1:123456789012:numbers"}}


def archive_definition(**changes: Any) -> dict[str, Any]:
    (found,) = [
        definition["Properties"]
        for definition in resources(template(**(changes or ON)), "AWS::ECS::TaskDefinition")
        if definition["Properties"]["ContainerDefinitions"][0]["Command"] == ["archive"]
    ]
    return dict(found)


def test_it_is_off_unless_asked_for() -> None:
    assert len(resources(template(), "AWS::DynamoDB::Table")) == 2, "of balances and adjustments"
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


def test_a_production_table_is_protected_but_in_the_deployment_that_makes_it() -> None:
    """Each by its own parameter: the archive may be turned on in a stack that exists. `no` is what a template without
    our command is given.
    """
    made = template(**ON, environment="production")
    found = {
        table["Properties"]["TableName"]: table["Properties"]["DeletionProtectionEnabled"]
        for table in resources(made, "AWS::DynamoDB::Table")
    }
    assert found == {
        "customer-balances-TT": {"Fn::If": ["First", False, True]},
        "customer-adjustments-TT": {"Fn::If": ["First", False, True]},
        "customer-events-TT": {"Fn::If": ["ArchiveFirst", False, True]},
    }
    for name, parameter in {"First": "FirstDeployment", "ArchiveFirst": "ArchiveFirstDeployment"}.items():
        assert made.to_json()["Conditions"][name] == {"Fn::Equals": [{"Ref": parameter}, "yes"]}
        assert made.to_json()["Parameters"][parameter]["Default"] == "no"
    assert "DeletionProtectionEnabled" not in json.dumps(template(**ON).to_json())


def test_its_service_begins_with_no_task_whenever_it_is_turned_on() -> None:
    (count,) = [
        service["Properties"]["DesiredCount"]
        for id_, service in template(**ON).find_resources("AWS::ECS::Service").items()
        if id_.startswith("Archive")
    ]
    assert count == {"Fn::If": ["ArchiveFirst", 0, {"Ref": "AWS::NoValue"}]}


def test_a_table_that_is_there_is_used() -> None:
    changes = {"archive": {**ON["archive"], "existing_table": "events-old"}}
    assert len(resources(template(**changes), "AWS::DynamoDB::Table")) == 2
    (container,) = archive_definition(**changes)["ContainerDefinitions"]
    assert {"Name": "ARCHIVE_TABLE", "Value": "events-old"} in container["Environment"]
    assert "table/events-old" in json.dumps(statements(**changes))


def statements(**changes: Any) -> list[dict[str, Any]]:
    """Of the one policy that lets a task write events: everything that the task may do."""
    (found,) = [
        policy["Properties"]["PolicyDocument"]["Statement"]
        for policy in resources(template(**changes), "AWS::IAM::Policy")
        if "dynamodb:BatchWriteItem" in json.dumps(policy)
    ]
    return list(found)


def source_of(**changes: Any) -> Any:
    (container,) = archive_definition(**changes)["ContainerDefinitions"]
    return {entry["Name"]: entry["Value"] for entry in container["Environment"]}["ARCHIVE_SOURCE"]


def test_the_task_may_write_rows_and_describe_the_table_and_nothing_else() -> None:
    assert [statement["Action"] for statement in statements(**ON)] == [
        ["dynamodb:BatchWriteItem", "dynamodb:DescribeTable"]
    ]


def test_on_sqs_it_may_read_the_stacks_own_queue_too_and_no_other() -> None:
    from cdk.stack.sqs import READER_CALLS

    made = template(**ON_SQS)
    ((queue, found),) = made.find_resources("AWS::SQS::Queue").items()
    assert found["Properties"]["QueueName"] == "customer-archive-TT"
    assert found["Properties"]["MessageRetentionPeriod"] == 14 * 86_400
    assert found["Properties"]["SqsManagedSseEnabled"] is True
    _, reads = statements(**ON_SQS)
    assert (reads["Action"], reads["Resource"]) == (list(READER_CALLS), {"Fn::GetAtt": [queue, "Arn"]})
    assert source_of(**ON_SQS) == {"Fn::Join": ["", ["sqs:", {"Ref": queue}]]}


@pytest.mark.parametrize(("changes", "account"), [(NAMED, "AWS::AccountId"), (ELSEWHERE, "123456789012")])
def test_a_queue_that_is_there_already_is_read_and_not_made(changes: dict[str, Any], account: str) -> None:
    from cdk.stack.sqs import READER_CALLS

    assert resources(template(**changes), "AWS::SQS::Queue") == []
    _, reads = statements(**changes)
    assert reads["Action"] == list(READER_CALLS)
    resource, source = json.dumps(reads["Resource"]), json.dumps(source_of(**changes))
    assert account in resource
    assert account in source
    assert ":numbers" in resource
    assert "/numbers" in source
    assert "*" not in resource


@pytest.mark.parametrize("changes", [ON_SQS, NAMED])
def test_a_queues_backlog_is_what_waits_and_what_is_held(changes: dict[str, Any]) -> None:
    made = template(**changes).to_json()
    held = {**waiting(0), "ApproximateNumberOfMessagesNotVisible": [[5]] * 10}
    assert tasks_set_by(made, held) == [1]


def test_the_oldest_message_raises_the_alarm() -> None:
    """A backlog sampled once a minute is hardly ever 0, however healthy the archive."""
    found = alarms(template(**ON_SQS).to_json())
    assert not {"ArchiveDiscarded", "ArchiveUnconfirmed"} & found.keys(), "a queue does not say what it discards"
    stuck = found["ArchiveStuck"]
    assert (stuck["Namespace"], stuck["MetricName"]) == ("AWS/SQS", "ApproximateAgeOfOldestMessage")
    stuck = alarms(template(**ON).to_json())["ArchiveStuck"]
    assert (stuck["Namespace"], stuck["MetricName"]) == ("CustomerBalance", "ArchiveOldest")
    assert stuck["MetricName"] in backlog.UNITS, "the role customer reports it, also when no task of the archive runs"


STEPS = {
    "default": ({"backlog": 1, "tasks": 1}, {"backlog": 100_000, "tasks": 2}, {"backlog": 1_000_000, "tasks": 4}),
    "one": ({"backlog": 1, "tasks": 3},),
    "first above one": ({"backlog": 10, "tasks": 2},),
    "close": ({"backlog": 1, "tasks": 1}, {"backlog": 2, "tasks": 2}, {"backlog": 3, "tasks": 3}),
    "four": (
        {"backlog": 10, "tasks": 1}, {"backlog": 1000, "tasks": 2}, {"backlog": 5000, "tasks": 3},
        {"backlog": 9000, "tasks": 4},
    ),
}  # fmt: skip


def waiting(backlog: int, done: int = 0) -> Reports:
    """Ten minutes with this backlog, and so much archived in each."""
    return {
        "ArchiveBacklog": [[backlog, backlog]] * 10,
        "ArchiveRows": [[done]] * 10,
        "ApproximateNumberOfMessagesVisible": [[backlog]] * 10,
        "ApproximateNumberOfMessagesNotVisible": [[0]] * 10,
        "NumberOfMessagesDeleted": [[done]] * 10,
    }


@pytest.mark.parametrize("source", ["jetstream", "sqs"])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
def test_each_backlog_sets_one_number_of_tasks(source: str, steps: tuple[dict[str, int], ...]) -> None:
    made = template(archive={"enabled": True, "source": source, "steps": list(steps)}).to_json()
    values = {0, 10**9, *(step["backlog"] + off for step in steps for off in (-1, 0, 1))}
    for value in sorted(values):
        reached = [step["tasks"] for step in steps if step["backlog"] <= value]
        assert tasks_set_by(made, waiting(value)) == (reached[-1:] or [0]), value
        assert ArchiveSection.model_validate({"steps": steps}).tasks(value) == (reached[-1] if reached else 0)


def test_it_arrives_with_its_queue(moto: str) -> None:
    """In a region of its own: other tests count what is in theirs."""
    region = "us-west-2"
    made = deepcopy(template(region=region, **ON_SQS).to_json())
    del made["Parameters"]["BootstrapVersion"], made["Rules"]
    names = {parameter for parameter in made["Parameters"] if parameter.endswith("SecretArn")}
    secret = f"arn:aws:secretsmanager:{region}:123456789012:secret:s-abcdef"

    def client(service: Any) -> Any:
        return boto3.client(
            service, endpoint_url=moto, region_name=region, aws_access_key_id="x", aws_secret_access_key="x"
        )

    client("cloudformation").create_stack(
        StackName="archive", TemplateBody=json.dumps(made), Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": name, "ParameterValue": secret} for name in sorted(names)],
    )  # fmt: skip
    (stack,) = client("cloudformation").describe_stacks(StackName="archive")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    ecs = client("ecs")
    (container,) = [
        found["containerDefinitions"][0]
        for arn in ecs.list_task_definitions()["taskDefinitionArns"]
        for found in [ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]]
        if found["containerDefinitions"][0]["command"] == ["archive"]
    ]
    given = {pair["name"]: pair["value"] for pair in container["environment"]}
    assert given["ARCHIVE_SOURCE"] == f"sqs:https://sqs.{region}.amazonaws.com/123456789012/customer-archive-TT"
    client("sqs").get_queue_url(QueueName="customer-archive-TT")
    table = client("dynamodb").describe_table(TableName=given["ARCHIVE_TABLE"])["Table"]
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["client_id", "event"]


@pytest.mark.parametrize("changes", [ON_SQS, ELSEWHERE])
def test_cfn_lint_finds_nothing(changes: dict[str, Any]) -> None:
    assert lint(template(**changes), "eu-west-1") == []


@pytest.mark.parametrize("source", ["jetstream", "sqs"])
def test_a_trickle_ends_no_task(source: str) -> None:
    """Each of its messages is archived before anyone counts it, so each sample of the backlog is 0."""
    made = template(archive={"enabled": True, "source": source, "idle_exit": 120}).to_json()
    assert tasks_set_by(made, waiting(0, done=1)) == []
    assert tasks_set_by(made, waiting(0)) == [0]
    ended = {name: [*series[:7], *waiting(0)[name][:3]] for name, series in waiting(0, done=1).items()}
    assert tasks_set_by(made, ended) == [0], "nothing for three minutes"
    short = {name: [*series[:8], *waiting(0)[name][:2]] for name, series in waiting(0, done=1).items()}
    assert tasks_set_by(made, short) == [], "a task itself waits for two"
    silent = {**waiting(0), "ArchiveRows": [[]] * 10, "NumberOfMessagesDeleted": [[]] * 10}
    assert tasks_set_by(made, silent) == [0], "without a task nobody reports"


def test_a_queue_of_another_region_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"archive\.queue: it is in eu-west-1, the stack in us-east-1"):
        settings(region="us-east-1", **ELSEWHERE)


@pytest.mark.parametrize("sse", [False, True])
def test_a_table_with_a_key_of_its_own_is_used_with_that_key(*, sse: bool) -> None:
    key = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    table = {"existing_table": "events-old", **({"existing_table_key": key} if sse else {})}
    found = [each for each in statements(archive={**ON["archive"], **table}) if "kms:Decrypt" in each["Action"]]
    assert [each["Resource"] for each in found] == ([key] if sse else [])
    assert all("dynamodb." in json.dumps(each["Condition"]["StringEquals"]["kms:ViaService"]) for each in found)


@pytest.mark.parametrize(
    "wrong", [{"queue": "numbers"}, {"source": "sqs", "queue": "a b"}, {"source": "sqs", "queue": "arn:aws:sns:x:1:y"}]
)
def test_a_queue_that_cannot_be_meant_is_reported(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ArchiveSection.model_validate(wrong)


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
        [{"backlog": 10**13, "tasks": 1}],
        [{"backlog": number, "tasks": number} for number in range(1, 22)],  # AWS takes 20
    ],
)
def test_steps_rise(steps: list[dict[str, int]]) -> None:
    with pytest.raises(ValidationError):
        ArchiveSection.model_validate({"steps": steps})


@pytest.mark.parametrize(("backlog", "tasks"), [(0, 0), (1, 1), (99_999, 1), (100_000, 2), (10**9, 4)])
def test_a_backlog_asks_for_tasks(backlog: int, tasks: int) -> None:
    assert ArchiveSection().tasks(backlog) == tasks
