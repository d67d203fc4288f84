"""The queue sidecar in the template: off unless asked for, ordered with the business container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deploy.sections import QueueSection
from tests.cdk.aws_rules import alarms
from tests.cdk.test_cost import bill_of, dollars
from tests.support.deploy.stack import lint, resources, settings, template

pytestmark = pytest.mark.xdist_group("templates")

IMAGE = "registry.example/handler:1"
ON = {"queue": {"enabled": True, "image": IMAGE, "max_deliver": 4, "stop_timeout": 40}}
ON_SQS = {"queue": {**ON["queue"], "source": "sqs"}}
GIVEN = {"queue": {**ON_SQS["queue"], "queue": "orders"}}


def containers(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sidecar and the business container of the one task that has both."""
    (found,) = [
        definition["Properties"]["ContainerDefinitions"]
        for definition in resources(template(**changes), "AWS::ECS::TaskDefinition")
        if len(definition["Properties"]["ContainerDefinitions"]) == 2
    ]
    sidecar, business = found
    return sidecar, business


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["Name"]: entry["Value"] for entry in container["Environment"]}


def sqs_statements(**changes: Any) -> list[dict[str, Any]]:
    return [
        statement
        for policy in resources(template(**changes), "AWS::IAM::Policy")
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "sqs:" in json.dumps(statement["Action"])
    ]


def queues() -> dict[str, dict[str, Any]]:
    return {
        found["Properties"]["QueueName"]: found["Properties"]
        for found in resources(template(**ON_SQS), "AWS::SQS::Queue")
    }


def test_it_is_off_unless_asked_for() -> None:
    assert len(resources(template(), "AWS::ECS::Service")) == 1
    assert resources(template(), "AWS::SQS::Queue") == []


def test_the_business_container_starts_after_the_sidecar_and_stops_before_it() -> None:
    sidecar, business = containers(**ON)
    assert (sidecar["Command"], sidecar["Essential"], business["Essential"]) == (["queue"], True, True)
    assert business["DependsOn"] == [{"Condition": "HEALTHY", "ContainerName": sidecar["Name"]}]
    assert sidecar["HealthCheck"]["Command"] == ["CMD", "python", "-m", "service.healthcheck"]
    assert (business["Image"], business["StopTimeout"]) == (IMAGE, 40)
    assert environment(business) == {"SIDECAR": environment(sidecar)["QUEUE_LISTEN"]}
    assert "Secrets" not in business


def test_on_the_stream_it_has_its_own_credentials_and_calls_nothing_in_aws() -> None:
    sidecar, _ = containers(**ON)
    assert sidecar["Secrets"] == [{"Name": "NATS_CREDENTIALS", "ValueFrom": {"Ref": "QueueNatsSecretArn"}}]
    assert environment(sidecar)["QUEUE"] == "jetstream:customer-balances"
    assert environment(sidecar)["QUEUE_MAX_DELIVER"] == "4"
    assert sqs_statements(**ON) == []


def test_on_sqs_it_may_use_that_one_queue_and_has_no_nats_credentials() -> None:
    from cdk.stack.sqs import READER_CALLS

    sidecar, _ = containers(**ON_SQS)
    assert "Secrets" not in sidecar
    assert "QueueNatsSecretArn" not in template(**ON_SQS).to_json()["Parameters"]
    (statement,) = sqs_statements(**ON_SQS)
    assert sqs_statements(**GIVEN)[0]["Action"] == list(READER_CALLS)
    assert statement["Action"] == list(READER_CALLS)
    (queue,) = [
        id_
        for id_, found in template(**ON_SQS).find_resources("AWS::SQS::Queue").items()
        if "RedrivePolicy" in found["Properties"]
    ]
    assert statement["Resource"] == {"Fn::GetAtt": [queue, "Arn"]}
    assert environment(sidecar)["QUEUE"] == {"Fn::Join": ["", ["sqs:", {"Ref": queue}]]}


def test_sqs_sets_a_message_aside_that_is_received_too_often_and_tells() -> None:
    made = queues()
    assert made.keys() == {"customer-queue-TT", "customer-queue-dead-TT"}
    assert made["customer-queue-TT"]["RedrivePolicy"]["maxReceiveCount"] == 4
    assert "RedrivePolicy" not in made["customer-queue-dead-TT"]
    kept_s = [made[name]["MessageRetentionPeriod"] for name in ("customer-queue-TT", "customer-queue-dead-TT")]
    assert kept_s == sorted(set(kept_s)), "a dead letter is kept longer: its time counts from its first sending"
    assert all(queue["SqsManagedSseEnabled"] for queue in made.values())
    assert alarms(template(**ON_SQS).to_json())["QueueDeadLetters"]["Dimensions"][0]["Name"] == "QueueName"


@pytest.mark.parametrize(
    "host",
    [
        "dkr.ecr.eu-west-1.amazonaws.com",
        "dkr.ecr-fips.us-east-1.amazonaws.com",
        "dkr-ecr.eu-west-1.on.aws",
        "dkr-ecr-fips.us-east-1.on.aws",
        "dkr.ecr.cn-north-1.amazonaws.com.cn",
        "dkr.ecr.eusc-de-east-1.amazonaws.eu",
    ],
)
def test_an_image_of_ecr_may_be_pulled_and_no_other(host: str) -> None:
    """https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-requests.html"""
    image = f"123456789012.{host}/team/handler:7"
    changes = {"queue": {**ON["queue"], "image": image}}
    pulled = [
        json.dumps(statement["Resource"])
        for policy in resources(template(**changes), "AWS::IAM::Policy")
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "ecr:BatchGetImage" in statement["Action"]
    ]
    assert ["repository/team/handler" in resource for resource in pulled] == [True]
    assert f":ecr:{host.partition('ecr')[2].split('.')[1]}:123456789012:" in pulled[0]
    assert containers(**changes)[1]["Image"] == image, "from the registry that was named"


def test_each_deployment_sets_its_number_of_tasks() -> None:
    """Nothing else would: no autoscaling changes it."""
    changes = {"queue": {**ON["queue"], "tasks": 5}}
    counts = {
        id_.partition("Tasks")[0]: service["Properties"]["DesiredCount"]
        for id_, service in template(**changes).find_resources("AWS::ECS::Service").items()
    }
    assert counts == {"": {"Fn::If": ["First", 3, {"Ref": "AWS::NoValue"}]}, "Queue": 5}


def test_a_queue_that_is_there_already_is_read_with_its_own_dead_letters() -> None:
    assert resources(template(**GIVEN), "AWS::SQS::Queue") == []
    sidecar, _ = containers(**GIVEN)
    assert "/orders" in json.dumps(environment(sidecar)["QUEUE"])
    assert alarms(template(**GIVEN).to_json()).keys() & {"QueueOld", "QueueNoTask", "QueueDeadLetters"} == {
        "QueueOld", "QueueNoTask",
    }  # fmt: skip


def test_the_business_container_may_write_where_it_says() -> None:
    _, business = containers(**ON)
    assert business["ReadonlyRootFilesystem"] is True
    assert business["MountPoints"] == [{"ContainerPath": "/tmp", "ReadOnly": False, "SourceVolume": "tmp"}]
    _, business = containers(queue={**ON["queue"], "read_only": False})
    assert business["ReadonlyRootFilesystem"] is False
    assert "MountPoints" not in business


def test_both_containers_have_the_business_containers_architecture(tmp_path: Path) -> None:
    from aws_cdk import App
    from aws_cdk.assertions import Template

    from cdk.app import image_of
    from cdk.stack.stack import BalanceStack

    app = App(outdir=str(tmp_path), builtin_cloud_formation_validation=False)
    given = settings(queue={**ON["queue"], "architecture": "x86-64"})
    images = {"image": image_of(given, "arm64"), "queue_image": image_of(given, given.queue_architecture)}
    made = Template.from_stack(BalanceStack(app, given.stack_name, given, **images)).to_json()
    found = {
        definition["Properties"]["ContainerDefinitions"][0]["Command"][0]: (
            definition["Properties"]["RuntimePlatform"]["CpuArchitecture"],
            definition["Properties"]["ContainerDefinitions"][0]["Image"]["Fn::Sub"].rpartition(":")[2],
        )
        for definition in made["Resources"].values()
        if definition["Type"] == "AWS::ECS::TaskDefinition"
    }
    built = json.loads(next(tmp_path.glob("*.assets.json")).read_text())["dockerImages"]
    assert {role: (cpu, built[tag]["source"]["platform"]) for role, (cpu, tag) in found.items()} == {
        "customer": ("ARM64", "linux/arm64"),
        "queue": ("X86_64", "linux/amd64"),
    }


@pytest.mark.parametrize("changes", [ON, ON_SQS, GIVEN])
def test_cfn_lint_finds_nothing(changes: dict[str, Any]) -> None:
    assert lint(template(**changes), "eu-west-1") == []


def test_its_tasks_are_on_the_bill() -> None:
    assert dollars(bill_of(**ON_SQS), "tasks of queue") > 0


@pytest.mark.parametrize("wrong", [{"enabled": True}, {"source": "kafka"}, {"stop_timeout": 121}, {"cpu": 300}])
def test_what_would_fail_late_is_refused_at_synth(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QueueSection.model_validate(wrong)
